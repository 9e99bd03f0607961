"""The boundaries of WebSocket frames, for input split at arbitrary positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.http1.websocket import GOING_AWAY, FrameTracker


def frame(payload: bytes, opcode: int = 2, masked: bool = False) -> bytes:
    size, mask = len(payload), 128 if masked else 0
    head = bytes([128 | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += bytes([mask | 126]) + size.to_bytes(2)
    else:
        head += bytes([mask | 127]) + size.to_bytes(8)
    return head + (b"mask" if masked else b"") + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("masked", [False, True])
def test_a_close_may_follow_a_whole_frame_only(size: int, masked: bool) -> None:
    data = frame(b"\x88" * size, masked=masked)
    for end in {*range(1, min(len(data), 20)), len(data) - 1}:
        if 0 < end < len(data):
            tracker = FrameTracker()
            tracker.feed(data[:end])
            assert not tracker.may_close
            tracker.feed(data[end:])
            assert tracker.may_close


@given(st.lists(st.integers(0, 300), max_size=20), st.data())
def test_any_split_has_the_same_boundaries(sizes: list[int], data: st.DataObject) -> None:
    frames = [frame(bytes(size)) for size in sizes]
    stream = b"".join(frames)
    ends = {0}
    for each in frames:
        ends.add(max(ends) + len(each))
    tracker, position = FrameTracker(), 0
    while position < len(stream):
        step = data.draw(st.integers(1, 200))
        tracker.feed(stream[position : position + step])
        position = min(position + step, len(stream))
        assert tracker.may_close == (position in ends)


def test_nothing_follows_a_close() -> None:
    tracker = FrameTracker()
    assert tracker.may_close
    tracker.feed(GOING_AWAY)
    assert not tracker.may_close
