"""The check of a part's body in bounded steps: the grammar of RFC 8259, the limits, and turns on the event loop."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.compose import json_steps
from passerelle.compose.json_steps import MAX_DEPTH, MAX_VALUES, StepQueue, Steps, decode_steps
from passerelle.errors import Failure, Kind
from tests.support.cpu import cpu_timer

MIB = 1024 * 1024


def finish(steps: Steps) -> tuple[bytes | Failure, int, float]:
    """Return the outcome, the number of steps and the CPU seconds of the longest one."""
    count, longest = 0, 0.0
    while True:
        with cpu_timer() as spent:
            try:
                next(steps)
            except StopIteration as end:
                return bytes(end.value), count + 1, max(longest, spent())
            except Failure as failure:
                return failure, count + 1, max(longest, spent())
            longest = max(longest, spent())
        count += 1


def outcome(body: bytes) -> bytes | Failure:
    return finish(json_steps.json_steps(body))[0]


@contextmanager
def tiny_windows() -> Iterator[None]:
    """Let every body take the state machine, and every match end within a few bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_steps, "AT_ONCE", 0)
        patch.setattr(json_steps, "_WINDOW", 24)
        patch.setattr(json_steps, "_PIECE", 100)
        yield


def is_json(text: bytes) -> bool:
    """Whether Python's parser takes ``text`` for JSON, without its extensions."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    if text[:3] == b"\xef\xbb\xbf":
        return False
    try:
        json.loads(text.decode("utf-8"), parse_constant=refuse, parse_int=str, parse_float=str)
    except ValueError:
        return False
    return True


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-999_999, 999_999)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=30), inner, max_size=4),
    max_leaves=30,
)
SPACED = st.sampled_from([(",", ":"), (" , ", "\t:\n"), (",\r\n" + " " * 30, ": ")])


@given(VALUES, SPACED, st.booleans())
def test_every_json_text_passes_unchanged(value: object, separators: tuple[str, str], escaped: bool) -> None:
    body = json.dumps(value, separators=separators, ensure_ascii=escaped).encode()
    with tiny_windows():
        assert outcome(body) == body


@given(VALUES, st.data())
def test_a_damaged_text_is_judged_as_by_another_parser(value: object, data: st.DataObject) -> None:
    body = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 2))
    put = data.draw(st.sampled_from([b"", *(bytes([c]) for c in b'{}[]",:\\0-.eEu \n\x01\xff\xc3')]))
    body = body[:at] + put + body[at + cut :]
    with tiny_windows():
        assert (outcome(body) == body) == is_json(body)


@given(
    st.lists(
        st.sampled_from(["[", "]", "{", "}", ",", ":", '"a"', "1", " ", "-0.5e+3", "true", "nul", '"\\', '\\"']),
        max_size=24,
    )
)
def test_any_sequence_of_tokens_is_judged_as_by_another_parser(tokens: list[str]) -> None:
    body = "".join(tokens).encode()
    with tiny_windows():
        assert (outcome(body) == body) == is_json(body)


@pytest.mark.parametrize(
    "value",
    [b"1" * 5000, b"-1E400", b"1e-99999", b'"\\ud800"', b'{"\\udfff\\ud800":[1E400]}', b'{"a":1,"a":2}', b'"\\u0000"'],
)
@pytest.mark.parametrize("times", [1, 20_000])
def test_valid_json_that_has_no_value_in_python_is_copied(value: bytes, times: int) -> None:
    body = b"[" + b", ".join([value] * (times if len(value) < 100 else 1)) + b"]"
    assert outcome(body) == body


LIMITS = {
    "values": (b"[" + b"[]," * (10 * MIB // 3 - 1) + b"1]", "more than 1000000 values"),
    "depth": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested more than 1024 deep"),
    "objects in depth": (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested more than 1024 deep"),
    "number": (b"1" * MIB, "a number of 16384 or more characters"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_has_a_failure_of_its_own(name: str) -> None:
    body, text = LIMITS[name]
    failure = outcome(body)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.status, failure.detail) == (Kind.PART_TOO_LARGE, 502, text)


def test_what_reaches_a_limit_passes() -> None:
    for body in (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b"[" + b"1," * (MAX_VALUES - 1) + b"1]"):
        assert outcome(body) == body


def test_a_body_longer_than_the_limit_is_not_decoded() -> None:
    bomb = zlib.compress(b"[" + b" " * (20 * MIB), wbits=31)
    failure, steps, _ = finish(decode_steps(b"gzip", bomb))
    assert isinstance(failure, Failure) and failure.kind is Kind.PART_TOO_LARGE
    assert steps > 100


COSTLY: dict[str, Callable[[], bytes]] = {
    "empty arrays": lambda: b"[" + b"[]," * 499_000 + b"1]",
    "short arrays": lambda: b"[" + b"[1]," * 499_000 + b"1]",
    "nested arrays": lambda: b"[" + b"[[[[1]]]]," * 20_000 + b"1]",
    "nested objects": lambda: b"[" + b'{"a":{"a":{"a":1}}},' * 20_000 + b"1]",
    "long lists in depth": lambda: b"[1" + (b",1" * 1000 + b',{"a":[1') * 500 + b"]}" * 500 + b"]",
    "one string": lambda: b'"' + b"a" * (10 * MIB) + b'"',
    "escapes": lambda: b'"' + b"\\n" * (5 * MIB) + b'"',
    "two octets": lambda: b'"' + "é".encode() * (5 * MIB) + b'"',
    "blanks": lambda: b"[1" + b" " * (10 * MIB) + b"]",
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_body_takes_many_short_steps(name: str) -> None:
    body = COSTLY[name]()
    result, steps, longest = finish(json_steps.json_steps(body))
    assert result == body
    assert steps > len(body) / (256 * 1024)
    assert longest < 0.05, "CPU seconds of one step"


def test_time_is_linear_in_the_length_of_a_body() -> None:
    """Each of these makes a match fail after a long way, which must not be repeated for each byte."""

    def seconds(body: bytes) -> float:
        with cpu_timer() as spent:
            finish(json_steps.json_steps(body))
            return spent()

    for unit in (b'["' + b"x" * 5000 + b'",[[[', b"[" + b"1," * 1000 + b"[[[", b'{"a":"' + b"\\u00e9" * 900):
        one, eight = (min(seconds(b"[" + unit * n) for _ in range(3)) for n in (40, 320))
        assert eight < 30 * one + 0.01


def test_other_work_runs_between_the_steps_of_all_bodies() -> None:
    turns: list[str] = []

    def steps(name: str, count: int) -> Steps:
        for _ in range(count):
            turns.append(name)
            yield
        return name.encode()

    def receive(name: str) -> Callable[[bytes | Failure | None], bool]:
        def proceed(result: bytes | Failure | None) -> bool:
            if result is not None:
                turns.append(f"{name} has ended")
            return name != "unneeded"

        return proceed

    async def main() -> None:
        queue = StepQueue()
        for name in ("a", "b", "unneeded"):
            queue.run(steps(name, 3), receive(name))
        while turns[-1] != "b has ended":
            turns.append("-")
            await asyncio.sleep(0)

    asyncio.run(main())
    assert re.sub(r"-+", "-", "".join({"a has ended": "A", "b has ended": "B"}.get(t, t[0]) for t in turns)) == (
        "abu-a-b-a-b-A-B"
    )
