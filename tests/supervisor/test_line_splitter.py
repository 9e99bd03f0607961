from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from passerelle.supervisor.line_splitter import LineBuffer, LineSplitter

pieces = st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", b"a\nb\n", b"x" * 30]), max_size=20)


@given(pieces)
def test_lines_are_those_of_the_whole_stream_however_it_is_cut(data: list[bytes]) -> None:
    lines = LineSplitter(limit=10_000)
    out = [line for piece in data for line in lines.feed(piece)] + lines.flush()
    whole = b"".join(data)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert out == [line[:-1] if line.endswith(b"\r") else line for line in expected]


@given(pieces)
def test_memory_and_lines_are_bounded_and_losses_are_reported(data: list[bytes]) -> None:
    lines = LineSplitter(limit=8)
    out = []
    for piece in data:
        out += lines.feed(piece)
        assert len(lines._kept) <= 8
    out += lines.flush()
    for line, full in zip(out, b"".join(data).split(b"\n"), strict=False):
        if len(full) > 8:
            assert line == full[:8] + b" ... [%d bytes more]" % (len(full) - 8)


def test_a_line_end_may_be_cut_in_two() -> None:
    lines = LineSplitter()
    assert lines.feed(b"one\r") == []
    assert lines.feed(b"\ntwo") == [b"one"]
    assert lines.flush() == [b"two"]
    assert lines.flush() == []


@given(pieces)
def test_whole_lines_pass_every_byte_in_order(data: list[bytes]) -> None:
    whole = LineBuffer(limit=16)
    out = []
    for piece in data:
        out.append(whole.feed(piece))
        assert len(whole._held) < 16 or piece.endswith(b"\n") or b"\n" in piece
    assert b"".join(out) + whole.flush() == b"".join(data)


def test_pieces_end_where_lines_end() -> None:
    whole = LineBuffer(limit=100)
    assert whole.feed(b'{"a":1}\n{"b"') == b'{"a":1}\n'
    assert whole.feed(b":2}") == b""
    assert whole.feed(b"\n") == b'{"b":2}\n'
    assert whole.feed(b"y" * 100) == b"y" * 100, "a line beyond the limit is passed on, not held"
