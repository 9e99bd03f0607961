"""Composition without a network: the test supplies the responses of the parts."""

from __future__ import annotations

import json
import zlib
from itertools import permutations

import pytest

from passerelle.compose.composition import (
    ComposedResponse,
    Composition,
    CompositionPart,
    Gather,
    Outcome,
    PassedResponse,
    value_steps,
)
from passerelle.errors import Failure, Kind


def json_value(status: int, media_type: bytes, coding: bytes, body: bytes) -> bytes:
    steps = value_steps(status, media_type, coding, body)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value)


class Call:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class Whole:
    """A gather that records its calls, and its outcomes."""

    def __init__(self, *parts: CompositionPart) -> None:
        self.calls: list[Call] = []
        self.outcomes: list[Outcome] = []
        self.gathering = Gather(Composition(parts), self.outcomes.append)
        self.gathering.start(self.call)

    def call(self, index: int, gathering: Gather) -> Call:
        self.calls.append(Call())
        return self.calls[-1]

    def answer(
        self, index: int, body: bytes = b"{}", status: int = 200, media_type: bytes = b"application/json"
    ) -> None:
        self.gathering.on_part(index, status, media_type, b"", body)

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


def test_bytes_are_spliced_as_they_were_whatever_the_order_of_answers() -> None:
    bodies = [b'{"a": 1.10, "a": 2}', b"[1,\n 2]", b'"\\u00e9"']
    for order in permutations(range(3)):
        whole = Whole(CompositionPart("user"), CompositionPart("product"), CompositionPart('odd "name" 100%'))
        for index in order:
            assert whole.outcomes == []
            whole.answer(index, bodies[index])
        body = b'{"user":' + bodies[0] + b',"product":' + bodies[1] + b',"odd \\"name\\" 100%":' + bodies[2] + b"}"
        assert whole.outcome == ComposedResponse(body, ())
        assert [call.cancelled for call in whole.calls] == [0, 0, 0]


@pytest.mark.parametrize("value", [b"null", b"[1]", b'"s"', b"0", b"true", b" {} "])
def test_any_json_value_is_a_part(value: bytes) -> None:
    assert json_value(200, b"application/json", b"", value) == value


@pytest.mark.parametrize(
    "media_type", [b"", b"application/json; charset=utf-8", b"application/problem+json", b"Text/X+JSON"]
)
def test_several_media_types_are_json(media_type: bytes) -> None:
    assert json_value(201, media_type, b"", b"1") == b"1"


@pytest.mark.parametrize(
    ("status", "media_type", "coding", "body"),
    [
        (500, b"application/json", b"", b"{}"),
        (500, b"application/json", b"", b""),
        (200, b"application/json", b"", b""),
        (204, b"", b"", b""),
        (200, b"application/json", b"", b"<html></html>"),
        (200, b"text/plain", b"", b"{}"),
        (200, b"text/html", b"", b"<p>"),
        (200, b"application/json", b"", b"\xef\xbb\xbf{}"),
        (200, b"application/json", b"", b'{"x":'),
        (200, b"application/json", b"", b"{} {}"),
        (200, b"application/json", b"", b"NaN"),
        (200, b"application/json", b"", b'"\xff"'),
        (200, b"application/json", b"br", b"{}"),
        (200, b"application/json", b"gzip", b"{}"),
        (200, b"application/json", b"gzip", zlib.compress(b"{}", wbits=31)[:-4]),
        (304, b"", b"", b""),
        (401, b"application/json", b"", b"{}"),
        (302, b"application/json", b"", b"{}"),
    ],
)
def test_what_is_no_json_answer_fails(status: int, media_type: bytes, coding: bytes, body: bytes) -> None:
    with pytest.raises(Failure) as failure:
        json_value(status, media_type, coding, body)
    assert failure.value.kind is Kind.PART_FAILED


@pytest.mark.parametrize(("coding", "wbits"), [(b"gzip", 31), (b"X-GZIP", 31), (b"deflate", 15)])
def test_a_coded_part_is_decoded(coding: bytes, wbits: int) -> None:
    assert json_value(200, b"application/json", coding, zlib.compress(b'{"a":1}', wbits=wbits)) == b'{"a":1}'


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passerelle.compose.json_steps.MAX_DECODED", 1000)
    with pytest.raises(Failure):
        json_value(200, b"application/json", b"gzip", zlib.compress(b'"' + b"a" * 100_000 + b'"', wbits=31))


def test_a_required_part_that_fails_ends_it_and_cancels_the_others() -> None:
    whole = Whole(CompositionPart("a"), CompositionPart("b"), CompositionPart("c"))
    whole.answer(0)
    whole.gathering.on_part_failure(1, Failure(Kind.CONNECT_FAILED, "10.0.0.1 refused"))
    assert isinstance(whole.outcome, Failure)
    assert whole.outcome.status == 502
    assert "10.0.0.1" not in whole.outcome.public
    assert [call.cancelled for call in whole.calls] == [1, 1, 1]
    whole.answer(2)
    assert len(whole.outcomes) == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (Kind.TIMEOUT, 504),
        (Kind.CONNECT_TIMEOUT, 504),
        (Kind.NO_INSTANCE, 503),
        (Kind.OVERLOADED, 503),
        (Kind.TRUNCATED, 502),
    ],
)
def test_the_status_shows_how_a_required_part_failed(kind: Kind, status: int) -> None:
    whole = Whole(CompositionPart("a"))
    whole.gathering.on_part_failure(0, Failure(kind))
    assert isinstance(whole.outcome, Failure)
    assert whole.outcome.status == status


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_refusal_of_a_part_is_not_success(status: int) -> None:
    whole = Whole(CompositionPart("a"), CompositionPart("b"))
    whole.answer(0)
    whole.answer(1, b"{}", status)
    assert isinstance(whole.outcome, Failure)
    assert whole.outcome.status == 502


def test_a_passed_status_is_the_answer() -> None:
    whole = Whole(CompositionPart("a", pass_status=frozenset({404})), CompositionPart("b"))
    whole.answer(0, b'{"title":"gone"}', 404, b"application/problem+json")
    assert whole.outcome == PassedResponse("a", 404, b"application/problem+json", b'{"title":"gone"}')
    assert whole.calls[1].cancelled == 1


def test_optional_parts_are_replaced_and_named() -> None:
    whole = Whole(CompositionPart("a", b"null"), CompositionPart("b"), CompositionPart("c", b'{"price":0}'))
    whole.answer(2, b"x")
    whole.gathering.on_part_failure(0, Failure(Kind.TIMEOUT))
    whole.answer(1, b"1")
    assert whole.outcome == ComposedResponse(b'{"a":null,"b":1,"c":{"price":0}}', ("a", "c"))


def test_all_parts_may_fail() -> None:
    whole = Whole(CompositionPart("a", b"null"), CompositionPart("b", b"[]"))
    whole.gathering.on_part_failure(1, Failure(Kind.TIMEOUT))
    whole.gathering.on_part_failure(0, Failure(Kind.TIMEOUT))
    assert whole.outcome == ComposedResponse(b'{"a":null,"b":[]}', ("a", "b"))
    assert json.loads(whole.outcome.body) == {"a": None, "b": []}


def test_cancelled_means_silent() -> None:
    whole = Whole(CompositionPart("a"), CompositionPart("b"))
    whole.answer(0)
    whole.gathering.cancel()
    whole.answer(1)
    assert whole.outcomes == []
    assert [call.cancelled for call in whole.calls] == [1, 1]


def test_a_part_that_fails_at_once_prevents_the_requests_of_the_rest() -> None:
    outcomes: list[Outcome] = []
    asked: list[int] = []
    calls: list[Call] = []

    def call(index: int, gathering: Gather) -> Call:
        asked.append(index)
        calls.append(Call())
        if index == 1:
            gathering.on_part_failure(index, Failure(Kind.NO_INSTANCE))
        return calls[-1]

    Gather(Composition([CompositionPart("a"), CompositionPart("b"), CompositionPart("c")]), outcomes.append).start(call)
    assert len(outcomes) == 1
    assert asked == [0, 1]
    assert [c.cancelled for c in calls] == [1, 1]


def test_a_composition_needs_a_part() -> None:
    with pytest.raises(ValueError, match="needs a part"):
        Composition([])
