from __future__ import annotations

import os
import select
import time

from passerelle.supervisor.output import Output
from tests.supervisor.helpers import until_now


def read_all(fd: int) -> bytes:
    out = b""
    while data := os.read(fd, 65536):
        out += data
    return out


def test_what_is_written_comes_out_in_order() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    for n in range(1000):
        output.write(b"line %d\n" % n)
    output.close()
    os.close(writer)
    assert read_all(reader) == b"".join(b"line %d\n" % n for n in range(1000))
    os.close(reader)


def test_a_reader_that_stops_never_blocks_and_what_is_lost_is_counted() -> None:
    reader, writer = os.pipe()
    output = Output(writer, limit=100_000)
    begun = time.monotonic()
    for _ in range(10_000):
        output.write(b"y" * 99 + b"\n")
    assert time.monotonic() - begun < 2.0
    until_now(lambda: output._lost > 0)
    taken = 0
    while output._size:
        if select.select([reader], [], [], 0.01)[0]:
            taken += len(os.read(reader, 65536))
    output.write(b"awake again\n")
    output.close()
    os.close(writer)
    rest = read_all(reader)
    assert rest.endswith(b"lines of output dropped: the reader did not read them)\nawake again\n")
    lost = int(rest[rest.index(b"(") + 1 :].split(b" ", 1)[0])
    assert lost + (taken + len(rest.partition(b"(")[0])) // 100 == 10_000
    os.close(reader)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(writer)
    output.write(b"unheard\n")
    until_now(lambda: not output._thread.is_alive())
    output.write(b"unheard\n")
    output.close()
    os.close(writer)


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = Output(writer)
    output.write(b"z" * 1_000_000)
    got = 0
    while got < 1_000_000:
        got += len(os.read(reader, 65536))
    output.close()
    os.close(writer)
    os.close(reader)


def test_a_full_disk_loses_a_piece_and_no_more() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    output = Output(fd)
    output.write(b"lost\n")
    until_now(lambda: output._size == 0)
    assert output._thread.is_alive()
    output.close()
    os.close(fd)
