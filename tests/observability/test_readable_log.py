"""Readable lines of the access log."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from passerelle.errors import Failure, Kind
from passerelle.observability.access_log import AccessLog
from passerelle.observability.readable_log import ReadableLog, duration_text


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def lines(
    target: bytes = b"/user/1",
    seconds: float = 0.00123,
    *,
    status: int = 200,
    instance: str | None = "user-1",
    cache: str | None = None,
    failure: Failure | None = None,
) -> list[bytes]:
    """Return the lines that the real access log writes for one request."""
    written: list[bytes] = []
    log = AccessLog(lambda batch, _: written.extend(batch), lambda *_: None, lambda: 1772366400.25)
    log.route("/user/{id}", "user").add(
        b"id", b"192.0.2.7", b"GET", target, b"h", b"a", status, 0, 9, seconds, 0.001, 1, instance, failure, cache
    )
    log.flush()
    return [line.rstrip(b"\n") for line in written]


def convert(line: bytes, width: int = 80, *, colour: bool = False) -> str:
    return ReadableLog(width, colour=colour).convert(line).decode()


def test_a_line_has_the_time_status_method_target_duration_and_instance() -> None:
    (line,) = lines()
    assert convert(line) == f"12:00:00 200 GET    {'/user/1':<37}   1.23 ms user-1"
    (line,) = lines(cache="hit", instance=None)
    assert convert(line) == f"12:00:00 200 GET    {'/user/1':<37}   1.23 ms user         hit"


def test_a_failure_has_its_reason() -> None:
    (line,) = lines(status=503, instance=None, failure=Failure(Kind.NO_INSTANCE, "no instance is up"))
    assert convert(line).endswith(" user         no_instance: no instance is up")


def test_lines_of_different_requests_are_aligned_and_long_targets_are_not_cut() -> None:
    texts = [convert(lines(b"/" + b"x" * size, 0.5)[0]) for size in (1, 30)]
    assert len({text.index("500.0 ms") for text in texts}) == 1
    assert "/" + "x" * 300 in convert(lines(b"/" + b"x" * 300)[0])
    assert all(len(text) <= 80 for text in texts)


def test_what_a_terminal_would_interpret_is_escaped() -> None:
    (line,) = lines(b"/\x1b]0;title\x07\x9b31m\r\n")
    assert r"/\x1b]0;title\x07\x9b31m\x0d\x0a" in convert(line)
    assert convert(line).isprintable()


def test_colours_only_if_wanted() -> None:
    (line,) = lines(status=404)
    assert "\x1b" not in convert(line)
    assert "\x1b[33m404\x1b[0m" in convert(line, colour=True)


@pytest.mark.parametrize("line", [b"", b"text", b"{}", b"[1]", b'{"status":"x"}', b"\xff", b'{"status":1e999}'])
def test_other_lines_are_unchanged(line: bytes) -> None:
    assert ReadableLog(80, colour=True).convert(line) == line


@pytest.mark.parametrize(
    ("microseconds", "text"), [(0, "0.00 ms"), (9_999, "10.00 ms"), (12_345, "12.3 ms"), (61_000_000, "61.00 s")]
)
def test_durations(microseconds: int, text: str) -> None:
    assert duration_text(microseconds) == text
