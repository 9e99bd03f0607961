"""Sink of the access log: full disks, blocked and closed pipes, rotation, bounds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from passerelle.observability.log_sink import LogSink


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.002)


@contextmanager
def sink_to(path: Path | None, warnings: list[str] | None = None, limit: int = 1 << 20) -> Iterator[LogSink]:
    heard: list[str] = [] if warnings is None else warnings
    sink = LogSink(path, limit=limit, warn=heard.append, retry=0.02)
    try:
        yield sink
    finally:
        sink.close(0.2)


def put(sink: LogSink, *lines: bytes) -> None:
    sink.put(list(lines), sum(map(len, lines)))


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    with sink_to(path) as sink:
        put(sink, b"1\n", b"2\n")
        put(sink, b"3\n")
    assert path.read_bytes() == b"before\n1\n2\n3\n"
    assert sink.counts() == (3, 0)


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with sink_to(path):
        assert path.stat().st_mode & 0o007 == 0


def test_a_path_that_cannot_be_opened_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        LogSink(tmp_path / "missing" / "access.log")


def test_a_named_pipe_without_reader_is_reported_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        LogSink(tmp_path / "pipe")


def test_reopening_after_a_rename(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with sink_to(path) as sink:
        put(sink, b"1\n")
        path.rename(old)
        put(sink, b"2\n")
        sink.reopen()
        until(path.exists)
        put(sink, b"3\n")
    assert old.read_bytes() == b"1\n2\n"
    assert path.read_bytes() == b"3\n"


def test_reopening_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder, warnings = tmp_path / "logs", list[str]()
    folder.mkdir()
    with sink_to(folder / "access.log", warnings) as sink:
        folder.rename(tmp_path / "moved")
        sink.reopen()
        until(lambda: bool(warnings))
        put(sink, b"1\n")
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"1\n"
    assert "opened again" in warnings[0]


def test_a_full_disk_loses_nothing_within_the_bound_and_is_reported_once(tmp_path: Path) -> None:
    path, target, warnings = tmp_path / "access.log", tmp_path / "real", list[str]()
    path.symlink_to("/dev/full")
    with sink_to(path, warnings) as sink:
        put(sink, b"1\n", b"2\n")
        until(lambda: bool(warnings))
        put(sink, b"3\n")
        path.unlink()
        path.symlink_to(target)
        sink.reopen()
        until(lambda: sink.counts() == (3, 0))
    assert target.read_bytes() == b"1\n2\n3\n"
    assert len(warnings) == 1
    assert "No space left" in warnings[0]


def test_over_the_bound_lines_are_dropped_and_counted_and_put_never_waits(tmp_path: Path) -> None:
    path, warnings = tmp_path / "access.log", list[str]()
    path.symlink_to("/dev/full")
    line = b"x" * 99 + b"\n"
    with sink_to(path, warnings, limit=1000) as sink:
        for _ in range(50):
            put(sink, line)
        assert sink.counts() == (0, 40)
    assert sink.counts() == (0, 50)


def test_a_pipe_whose_reader_stops_blocks_no_request_and_continues_when_it_reads(tmp_path: Path) -> None:
    path, warnings = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    lines = [b"%07d" % number + b"y" * 192 + b"\n" for number in range(1000)]
    with sink_to(path, warnings) as sink:
        put(sink, *lines)  # 200 KB: more than a pipe holds
        until(lambda: bool(warnings))
        assert sink.counts()[0] < 1000
        received = b""

        def drained() -> bool:
            nonlocal received
            with suppress(BlockingIOError):
                received += os.read(reader, 1 << 16)
            return received.count(b"\n") == 1000

        until(drained)
    os.close(reader)
    assert received == b"".join(lines)
    assert sink.counts() == (1000, 0)
    assert "nothing reads it" in warnings[0]


def test_a_closed_pipe_is_survived(tmp_path: Path) -> None:
    path, warnings = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with sink_to(path, warnings) as sink:
        os.close(reader)
        put(sink, b"1\n")
        until(lambda: bool(warnings))
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        until(lambda: sink.counts() == (1, 0))
        assert os.read(reader, 100) == b"1\n"
        os.close(reader)
    assert "Broken pipe" in warnings[0]


def test_writers_that_share_a_pipe_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    received: list[bytes] = []

    with sink_to(path) as first, sink_to(path) as second:
        os.set_blocking(reader, True)
        collecting = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(reader, 1 << 16), b"")))
        collecting.start()
        for sink, mark in ((first, b"a"), (second, b"b")):
            put(sink, *([mark * 450 + b"\n"] * 2000))
        until(lambda: first.counts() == (2000, 0) and second.counts() == (2000, 0))
    collecting.join(10)
    os.close(reader)
    lines = b"".join(received).splitlines()
    assert len(lines) == 4000
    assert set(lines) == {b"a" * 450, b"b" * 450}


def test_closing_gives_up_after_its_time_and_counts_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    with sink_to(path) as sink:
        put(sink, b"1\n", b"2\n")
        begun = time.monotonic()
        sink.close(0.05)
        assert time.monotonic() - begun < 5
        assert sink.counts() == (0, 2)
        put(sink, b"3\n")
        assert sink.counts() == (0, 3)


def test_warnings_come_at_most_once_a_minute(tmp_path: Path) -> None:
    path, warnings, now = tmp_path / "access.log", list[str](), [0.0]
    path.symlink_to("/dev/full")
    tries: list[float] = []

    def clock() -> float:
        tries.append(now[0])
        return now[0]

    sink = LogSink(path, warn=warnings.append, clock=clock, retry=0.005)
    put(sink, b"1\n")
    until(lambda: len(tries) > 5)
    assert len(warnings) == 1
    now[0] = 61.0
    until(lambda: len(warnings) == 2)
    sink.close(0.01)


class Disk:
    """Replaces ``os.write`` between the sink and a file; the test defines its behaviour."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = os.write
        self.now = 0.0
        self.seconds = 0.0
        self.takes: list[int | OSError] = []
        self.threads: list[str] = []
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        self.threads.append(threading.current_thread().name)
        self.now += self.seconds
        most = self.takes.pop(0) if self.takes else len(data)
        if isinstance(most, OSError):
            raise most
        return self._write(fd, data[:most])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@contextmanager
def sink_on(disk: Disk, path: Path | None) -> Iterator[LogSink]:
    sink = LogSink(path, warn=lambda sentence: None, clock=lambda: disk.now, retry=0.02)
    try:
        yield sink
    finally:
        sink.close(5)


MAIN = threading.main_thread().name


def test_a_file_that_is_well_is_written_at_once(tmp_path: Path, disk: Disk) -> None:
    with sink_on(disk, tmp_path / "log") as sink:
        put(sink, b"1\n", b"2\n")
        assert (tmp_path / "log").read_bytes() == b"1\n2\n"
        assert sink.counts() == (2, 0)
    assert disk.threads == [MAIN]


@pytest.mark.parametrize("takes", [0, 1, 2, 3, 5, 6])
def test_what_a_file_does_not_take_at_once_the_thread_writes_in_order(tmp_path: Path, disk: Disk, takes: int) -> None:
    disk.takes = [takes]
    with sink_on(disk, tmp_path / "log") as sink:
        put(sink, b"1\n", b"22\n", b"3\n")
        put(sink, b"4\n")
    assert (tmp_path / "log").read_bytes() == b"1\n22\n3\n4\n"
    assert sink.counts() == (4, 0)
    assert set(disk.threads[1:]) == {"access-log"}


def test_an_error_gives_the_file_to_the_thread_for_a_while(tmp_path: Path, disk: Disk) -> None:
    disk.takes = [OSError(28, "No space left on device")]
    with sink_on(disk, tmp_path / "log") as sink:
        put(sink, b"1\n")
        until(lambda: sink.counts() == (1, 0))
        disk.now += 9.9
        put(sink, b"2\n")
        until(lambda: sink.counts() == (2, 0))
        until(lambda: sink._taken_bytes == sink._done_bytes)
        disk.now += 0.2
        put(sink, b"3\n")
    assert disk.threads == [MAIN, "access-log", "access-log", MAIN]
    assert (tmp_path / "log").read_bytes() == b"1\n2\n3\n"


def test_slow_writes_in_a_row_give_the_file_to_the_thread_for_a_while(tmp_path: Path, disk: Disk) -> None:
    with sink_on(disk, tmp_path / "log") as sink:
        for number, seconds in enumerate((0.03, 0.0, 0.03, 0.03)):
            disk.seconds = seconds
            put(sink, b"%d\n" % number)
        put(sink, b"4\n")
        until(lambda: sink._taken_bytes == sink._done_bytes)
        disk.seconds, disk.now = 0.0, disk.now + 10
        put(sink, b"5\n")
        put(sink, b"6\n")
    assert disk.threads == [MAIN] * 4 + ["access-log", MAIN, MAIN]
    assert sink.counts() == (7, 0)


@contextmanager
def piped_stdout() -> Iterator[int]:
    """Make standard output a pipe; yield its reading end."""
    saved = os.dup(1)
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)
    try:
        yield reading
    finally:
        os.dup2(saved, 1)
        for fd in (saved, reading):
            os.close(fd)


def test_a_pipe_that_is_well_is_written_at_once_and_the_descriptor_given_is_left_as_it_is(disk: Disk) -> None:
    with piped_stdout() as reading, sink_on(disk, None) as sink:
        put(sink, b"1\n", b"2\n")
        assert os.read(reading, 100) == b"1\n2\n"
        assert os.get_blocking(1)
        assert sink.counts() == (2, 0)
    assert disk.threads == [MAIN]
    os.fstat(1)


def test_what_a_full_pipe_does_not_take_the_thread_writes_in_order(disk: Disk) -> None:
    lines = [b"%099d\n" % number for number in range(2000)]
    with piped_stdout() as reading, sink_on(disk, None) as sink:
        put(sink, *lines)
        put(sink, b"last\n")
        assert sink.counts()[0] < 2000
        read = b""
        while not read.endswith(b"last\n"):
            read += os.read(reading, 1 << 16)
        until(lambda: sink.counts() == (2001, 0))
        put(sink, b"again\n")
        assert os.read(reading, 100) == b"again\n"
    assert read == b"".join(lines) + b"last\n"
    assert disk.threads[-1] == MAIN
    assert "access-log" in disk.threads


def test_a_line_put_right_after_reopening_is_in_the_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with sink_to(path) as sink:
        for number in range(20):
            put(sink, b"before %d\n" % number)
            path.rename(old)
            sink.reopen()
            put(sink, b"after %d\n" % number)
            until(lambda number=number: sink.counts() == (2 * number + 2, 0) and not sink._reopening)
            assert old.read_bytes().splitlines()[-1] == b"before %d" % number
            assert path.read_bytes() == b"after %d\n" % number


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with sink_to(None) as sink:
        put(sink, b"1\n")
    assert capfd.readouterr().out == "1\n"
    os.fstat(1)  # still open
