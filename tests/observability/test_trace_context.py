"""W3C Trace Context: what is taken from clients, and what counts as absent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.observability.tracing.context import RemoteContext, field_lines, parse, parse_state

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
GOOD = b"00-%b-%b-01" % (TRACE, PARENT)


def fields(*values: bytes, states: tuple[bytes, ...] = ()) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"gw"), *((b"traceparent", v) for v in values), *((b"tracestate", v) for v in states)]


def test_a_valid_context_is_taken():
    assert parse(fields(GOOD)) == RemoteContext(TRACE, PARENT, 1, b"")
    assert parse(fields(GOOD[:-2] + b"00")) == RemoteContext(TRACE, PARENT, 0, b"")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:-1],
        GOOD + b"0",
        GOOD + b"-more",
        GOOD.upper(),
        b"ff" + GOOD[2:],
        b"0" + GOOD,
        GOOD.replace(TRACE, b"0" * 32),
        GOOD.replace(PARENT, b"0" * 16),
        GOOD.replace(b"-", b"_"),
        GOOD.replace(b"c", b"g"),
        GOOD + b"\n",
        b"00-" + b"1" * 10_000,
        GOOD + b", " + GOOD,
    ],
)
def test_a_malformed_context_counts_as_absent(value: bytes):
    assert parse(fields(value, states=(b"a=b",))) is None


def test_two_fields_count_as_absent():
    assert parse(fields(GOOD, GOOD)) is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert parse(fields(b"cc" + GOOD[2:] + b"-what-the-future-will-be-like")) == RemoteContext(TRACE, PARENT, 1, b"")
    assert parse(fields(b"cc" + GOOD[2:])) == RemoteContext(TRACE, PARENT, 1, b"")
    assert parse(fields(b"cc" + GOOD[2:] + b".x")) is None


def test_unknown_flags_are_cleared():
    assert parse(fields(GOOD[:-2] + b"ff")) == RemoteContext(TRACE, PARENT, 3, b"")


def test_without_a_traceparent_there_is_no_context():
    assert parse(fields(states=(b"a=b",))) is None


def test_the_state_of_several_fields_is_joined_in_order():
    found = parse(fields(GOOD, states=(b"a=1, b=2", b"", b"c@d=3")))
    assert found is not None and found.state == b"a=1,b=2,c@d=3"


@pytest.mark.parametrize(
    "state",
    [
        b"a",
        b"a=",
        b"=1",
        b"A=1",
        b"a=1,a=2",
        b"a=b=c",
        b"a=1;b\x00=2",
        b"a =1",
        b"a" * 257 + b"=1",
        b"a=" + b"1" * 257,
        b",".join(b"k%d=1" % n for n in range(33)),
        b"a=" + b"1" * 10_240,
    ],
)
def test_a_malformed_state_is_dropped_and_the_context_kept(state: bytes):
    assert parse(fields(GOOD, states=(state,))) == RemoteContext(TRACE, PARENT, 1, b"")


def test_a_long_state_loses_its_long_members_then_its_last_ones():
    short = [b"k%d=%b" % (n, b"v" * 60) for n in range(10)]
    state = parse_state(b",".join([b"long=" + b"x" * 200, *short]))
    assert len(state) <= 512
    assert state == b",".join(short[: state.count(b",") + 1])
    assert state.count(b",") >= 6


def test_a_state_of_512_characters_is_passed_on_whole():
    state = b",".join(b"k%d=%b" % (n, b"v" * 124) for n in range(4))
    assert parse_state(state[:512]) == state[:512]


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), max_size=4))
def test_what_is_passed_on_is_well_formed(value: bytes, states: list[bytes]):
    found = parse(fields(value, states=tuple(states)))
    assert found is None or re.fullmatch(rb"[0-9a-f]{32}", found.trace_id)


@given(st.lists(st.text("ab=,;@ \t1", max_size=30).map(str.encode), max_size=5))
def test_lines_have_no_other_line_in_them(states: list[bytes]):
    found = parse(fields(GOOD, states=tuple(states)))
    assert found is not None
    lines = field_lines(found.trace_id, PARENT, found.flags, found.state)
    assert re.fullmatch(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]\r\n(tracestate: [\x20-\x7e]+\r\n)?", lines)
