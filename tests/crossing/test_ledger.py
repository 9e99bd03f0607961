"""Differences are counted by place, noise is subtracted, and no value is kept."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson
import pytest

from passerelle.crossing.compare_json import Difference, Incomparable, JsonRules, Kind
from passerelle.crossing.compare_responses import CapturedResponse, ResponseComparer
from passerelle.crossing.ledger import MOST_EXAMPLES, MOST_PLACES, MOST_SETS, Ledger
from passerelle.crossing.paths import parse_pattern

KEY = b"a key of this run"
COMPARER = ResponseComparer(JsonRules())


def json_response(value: Any, status: int = 200, **fields: str) -> CapturedResponse:
    named = {name.replace("_", "-").encode(): text.encode() for name, text in fields.items()}
    return CapturedResponse(status, {b"content-type": b"application/json", **named}, orjson.dumps(value))


def kinds(old: CapturedResponse, new: CapturedResponse) -> list[tuple[tuple[str, ...], Kind]]:
    return [(each.path, each.kind) for each in COMPARER.compare(old, new)]


# ---- responses


def test_equal_responses_have_no_difference() -> None:
    assert kinds(json_response({"a": 1, "b": 2}), json_response({"b": 2, "a": 1})) == []


def test_another_status_is_the_only_difference() -> None:
    assert kinds(json_response({"a": 1}), json_response({"error": 2}, 500)) == [((), Kind.STATUS)]


def test_chosen_fields_are_compared() -> None:
    old, new = json_response(1, location="/a", date="x"), json_response(1, location="/b", date="y")
    assert kinds(old, new) == [(("location",), Kind.FIELD)]
    assert kinds(json_response(1), json_response(1, location="/b")) == [(("location",), Kind.FIELD)]


def test_media_types_are_compared_without_case_and_blanks() -> None:
    old = json_response(1, content_type="application/json; charset=utf-8")
    assert kinds(old, json_response(1, content_type="Application/JSON;charset=UTF-8")) == []
    assert kinds(old, json_response(1, content_type="application/json")) == [(("content-type",), Kind.FIELD)]


@pytest.mark.parametrize("media", ["text/plain", "application/octet-stream"])
def test_other_bodies_are_compared_as_bytes(media: str) -> None:
    fields = {b"content-type": media.encode()}
    assert kinds(CapturedResponse(200, fields, b"1"), CapturedResponse(200, fields, b"1.0")) == [((), Kind.BODY)]


def test_a_problem_document_is_json() -> None:
    fields = {b"content-type": b"application/problem+json"}
    assert kinds(CapturedResponse(404, fields, b'{"a": 1}'), CapturedResponse(404, fields, b'{"a":1}')) == []


def test_what_is_not_json_despite_its_type_is_compared_as_bytes() -> None:
    fields = {b"content-type": b"application/json"}
    assert kinds(CapturedResponse(200, fields, b"{"), CapturedResponse(200, fields, b"{}")) == [((), Kind.BODY)]


def test_an_incomplete_body_is_not_compared() -> None:
    with pytest.raises(Incomparable):
        kinds(CapturedResponse(200, {}, b"a"), CapturedResponse(200, {}, b"a", complete=False))


# ---- noise


def noisy(source: random.Random, **more: Any) -> CapturedResponse:
    """Return a response with a time, a request id, and a list in any order."""
    tags = ["a", "b", "c", "d"]
    source.shuffle(tags)
    return json_response(
        {"name": "ada", "at": source.random(), "id": f"{source.getrandbits(64):x}", "tags": tags, **more}
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_time_a_request_id_and_an_order_show_no_difference(seed: int) -> None:
    source, ledger = random.Random(seed), Ledger(KEY)
    for number in range(400):
        old = noisy(source)
        ledger.add(COMPARER.compare(old, noisy(source)))
        if number % 10 == 0:
            ledger.add_control(COMPARER.compare(old, noisy(source)))
    assert ledger.is_settled
    assert ledger.differing == 0
    assert [finding.path for finding in ledger.findings() if not finding.is_noise] == []
    assert {finding.path for finding in ledger.findings()} == {"/at", "/id", "/tags"}


@pytest.mark.parametrize("seed", range(20))
def test_a_true_difference_in_one_percent_is_found_among_noise(seed: int) -> None:
    source, ledger = random.Random(seed), Ledger(KEY)
    lacking = 0
    for number in range(2000):
        old = noisy(source, email="a@b.example")
        lacks = source.random() < 0.01
        lacking += lacks
        ledger.add(COMPARER.compare(old, noisy(source, **({} if lacks else {"email": "a@b.example"}))))
        if number % 10 == 0:
            ledger.add_control(COMPARER.compare(old, noisy(source, email="a@b.example")))
    assert [(f.path, f.kind, f.times) for f in ledger.findings() if not f.is_noise] == [
        ("/email", Kind.MISSING, lacking)
    ]
    assert ledger.differing == lacking > 0


def test_a_difference_of_another_kind_at_a_noisy_path_counts() -> None:
    ledger = Ledger(KEY)
    for number in range(100):
        old = json_response({"at": number})
        ledger.add(COMPARER.compare(old, json_response({"at": str(number)})))
        ledger.add_control(COMPARER.compare(old, json_response({"at": number + 1})))
    assert [(f.path, f.kind, f.is_noise) for f in ledger.findings()] == [("/at", Kind.TYPE, False)]
    assert ledger.differing == 100


def test_a_place_that_is_rarely_noise_counts_when_the_new_side_differs_there_often() -> None:
    ledger = Ledger(KEY)
    for number in range(200):
        ledger.add_control([Difference(("a",), Kind.VALUE, 1, 2)] if number == 0 else [])
        ledger.add([Difference(("a",), Kind.VALUE, 1, 2)] if number % 2 else [])
    assert [(f.path, f.is_noise) for f in ledger.findings()] == [("/a", False)]


# ---- nothing leaks, nothing grows


def test_examples_have_no_values() -> None:
    ledger = Ledger(KEY)
    secrets = {
        "password": "hunter2",
        "mail": "ada@example.com",
        "count": 424242,
        "list": ["tok-1"],
        "deep": {"k": "v-9"},
    }
    other: dict[str, Any] = {"password": "hunter3", "mail": None, "count": "424242", "list": [], "deep": {}}
    for _ in range(5):
        ledger.add(COMPARER.compare(json_response(secrets), json_response({**other, "ada@example.com": 1})))
    text = orjson.dumps([finding.to_json() for finding in ledger.findings()]).decode()
    for secret in ("hunter", "example.com", "424242", "tok-1", "v-9"):
        assert secret not in text
    assert all(len(finding.examples) == MOST_EXAMPLES for finding in ledger.findings() if finding.path != "/*")
    (example, *_) = next(finding for finding in ledger.findings() if finding.path == "/password").examples
    assert re.fullmatch(r"text of 7 #[0-9a-f]{8}", example.old)
    assert example.old != example.new


def test_hashes_depend_on_the_key() -> None:
    assert Ledger(KEY).describe("ada") != Ledger(b"another").describe("ada")
    assert Ledger(KEY).describe("ada") == Ledger(KEY).describe("ada")


def test_the_numbers_of_places_and_of_sets_are_bounded() -> None:
    ledger = Ledger(KEY)
    for number in range(5000):
        name = "a" * (number % 39 + 1) + "b" * (number // 39 % 39) + "c" * (number // 1521)
        ledger.add([Difference((name, name[::-1]), Kind.VALUE, 1, 2)])
    assert len(ledger.findings()) <= MOST_PLACES + 1
    assert ledger.findings()[0].path == "(further paths)"
    assert ledger.differing == ledger.comparisons == 5000
    sets = Ledger(KEY)
    source = random.Random(1)
    for _ in range(5000):
        sets.add([Difference((f"a{number}",), Kind.VALUE, 1, 2) for number in source.sample(range(60), 8)])
    assert len(sets._sets) <= MOST_SETS + 1
    assert sets.differing == 5000


def test_rules_hold_for_responses() -> None:
    comparer = ResponseComparer(JsonRules(ignore=(parse_pattern("/at"),)), fields=())
    assert comparer.compare(json_response({"at": 1}, etag="a"), json_response({"at": 2}, etag="b")) == []
