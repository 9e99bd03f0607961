"""The body of a file, sent at the speed of its client.

Over plain connections the kernel sends the file (``sendfile``), and the transport only reports when it can take more.
Over TLS, and where the body is compressed, the file is read in pieces. What is not in memory is read by a thread, so
that a slow disk delays no other request.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Final

from passerelle.actions.folder import FileState, OpenFile
from passerelle.actions.interfaces import ActionExchange, BodyReceiver, FileClient
from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead

# How much is sent before other requests have their turn, in bytes.
TURN: Final = 4 * 1024 * 1024
# How much is read at once.
PIECE: Final = 128 * 1024
# What is given to the transport when the client accepts no more: it reports when that is sent.
_MARK: Final = 4096
_CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)


class _Nowhere:
    """What the access log finds in place of the instance of a service."""

    name = ""


class FileBody:
    """Sends the bytes of ``file`` from ``first`` to before ``end``, after a head, and closes it.

    It takes the place of the request to a service in the exchange.
    """

    __slots__ = (
        "_busy",
        "_client",
        "_closed",
        "_connection",
        "_end",
        "_exchange",
        "_file",
        "_loop",
        "_paused",
        "_place",
        "_receiver",
        "_resident_to",
        "_scheduled",
    )

    instance = _Nowhere()
    seconds = 0.0
    attempts = 0
    hedged = None

    def __init__(self, exchange: ActionExchange, receiver: BodyReceiver, file: OpenFile, first: int, end: int) -> None:
        self._exchange = exchange
        self._receiver = receiver
        self._file = file
        self._place = first
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._client: FileClient = exchange.attach_body(self)
        # The descriptor of the connection to which the kernel sends the file; None if it is read in pieces.
        self._connection = self._client.begin_file() if receiver is exchange else None
        self._paused = False
        self._scheduled = False
        self._busy = False  # a thread reads the file
        self._resident_to = first  # what is in memory; the whole file where its file system does not state it
        self._closed = False

    def start(self, head: ResponseHead) -> None:
        """Send ``head`` and the body."""
        try:
            self._receiver.on_response(head, b"", False)
            self._step()
        except BaseException:
            self._close()
            raise

    # ---- what the exchange reports

    def pause(self) -> None:
        """Stop: the client reads too slowly."""
        self._paused = True

    def resume(self) -> None:
        """Continue: the client has caught up."""
        self._paused = False
        self._step()

    def cancel(self) -> None:
        """End: the client has disconnected, or the request has failed."""
        self._close()

    # ---- sending

    def _later(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        self._step()

    def _step(self) -> None:
        """Send one turn, or have a thread read what is not in memory."""
        if self._closed or self._busy or self._paused:
            return
        try:
            if self._place >= self._end:
                self._finish()
            elif self._place >= self._resident_to and not self._is_resident():
                self._busy = True
                end = min(self._place + TURN, self._end)
                reading = self._loop.run_in_executor(None, self._load, self._place, end)
                reading.add_done_callback(self._on_loaded)
            elif self._connection is not None:
                self._send_directly(self._connection)
            else:
                self._send_piece()
        except OSError as error:
            self._fail(f"the file cannot be read: {error.strerror}")

    def _send_directly(self, connection: int) -> None:
        most = min(TURN, self._end - self._place)
        if self._place + most >= self._end:
            self._check_unchanged()
        if self._closed:
            return
        try:
            sent = self._client.send_file(connection, self._file.descriptor, self._place, most)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._client.end_file()
            self._connection = None
            self._later()
            return
        if sent == 0:
            self._fail("the file became shorter while it was sent")
            return
        if sent is not None:
            self._place += sent
        if sent is None or sent < most:
            self._send_piece(_MARK)  # the transport resumes this body when the client has accepted it
        else:
            self._later()

    def _send_piece(self, most: int = PIECE) -> None:
        count = min(most, self._end - self._place)
        if self._place + count >= self._end:
            self._check_unchanged()
        if self._closed or not count:
            self._later()
            return
        data = os.pread(self._file.descriptor, count, self._place)
        if not data:
            self._fail("the file became shorter while it was sent")
            return
        self._place += len(data)
        self._receiver.on_data(data)
        self._later()

    def _check_unchanged(self) -> None:
        """Fail before the last bytes if the file has changed: those sent may be of two versions."""
        if not FileState.of(os.fstat(self._file.descriptor)).has_content_of(self._file.state):
            self._fail("the file changed while it was sent")

    def _is_resident(self) -> bool:
        """Whether reading the next turn does not wait for a disk, as far as the kernel states that."""
        end = min(self._place + TURN, self._end)
        probe = bytearray(1)
        for offset in (self._place, end - 1):
            try:
                os.preadv(self._file.descriptor, [probe], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                end = self._end
        self._resident_to = end
        return True

    def _load(self, place: int, end: int) -> None:
        """Read the next turn into the memory of the kernel, in a thread."""
        while place < end and (read := len(os.pread(self._file.descriptor, min(PIECE, end - place), place))):
            place += read

    def _on_loaded(self, reading: asyncio.Future[None]) -> None:
        self._busy = False
        if self._closed:
            os.close(self._file.descriptor)
        elif reading.exception() is not None:
            self._fail("the file cannot be read")
        else:
            self._resident_to = min(self._place + TURN, self._end)
            self._step()

    def _finish(self) -> None:
        self._close()
        self._receiver.on_end()

    def _fail(self, why: str) -> None:
        if not self._closed:
            self._close()
            self._exchange.on_failure(Failure(Kind.INTERNAL, why))

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            self._client.end_file()
        if not self._busy:  # otherwise the thread's end closes it
            os.close(self._file.descriptor)
