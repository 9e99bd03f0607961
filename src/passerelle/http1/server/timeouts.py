"""Timeouts for a client: for its head, its body, its reading of the response, and its next request."""

from __future__ import annotations

import select
from abc import abstractmethod

from passerelle.errors import Failure, Kind
from passerelle.http1.interfaces import ServerExchange
from passerelle.http1.server.listener import Listener
from passerelle.http1.server.response_writer import ResponseWriter
from passerelle.system.linux import unsent_bytes

# Seconds for which a client may continue to send after the last response (RFC 9112 §9.6).
LINGER_SECONDS = 2.0
# Seconds for which an idle connection keeps its last head for comparison.
FORGET_SECONDS = 2.0
# Seconds for which a response may make no progress once the client has closed its sending side. Only a write shows
# whether such a client still reads, and a silent event stream writes nothing.
HALF_CLOSED_SECONDS = 5.0


class ClientTimeouts(ResponseWriter):
    """A connection that is checked at intervals and closed when its client exceeds a time limit."""

    __slots__ = ("_linger_left", "_progress_seen", "_received", "_received_since", "_unsent", "_write_paused")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._linger_left = -1
        self._received = 0  # body bytes since _received_since
        self._received_since = 0.0
        self._progress_seen = -1
        self._write_paused = False
        self._unsent = 0

    def check_time(self, now: float) -> None:
        """Enforce the time limits at ``now`` (monotonic seconds)."""
        limits = self._listener.limits
        waited = now - self._since
        if self._decoder is not None and self._reject_slow_body(now):
            return
        if self.closing:
            self._check_flushed(now)
        elif self._linger_left >= 0:
            if waited > LINGER_SECONDS and self._check_flushed(now):
                self.abort()
        elif self._exchange is None and not self._write_paused:
            if self._buffer:
                if waited > limits.head_timeout:
                    self._buffer = b""
                    self._refuse(Failure(Kind.HEAD_TIMEOUT, "head incomplete"))
            elif waited > limits.idle_timeout:
                if self._check_flushed(now):
                    self.close()
            elif waited > FORGET_SECONDS:
                self.invalidate_head()  # frees 2.5 KB per idle connection
        elif self._progress != self._progress_seen or not (
            self._write_paused or self._tunnel is not None or self._decoder is not None or self._client_half_closed
        ):
            self._progress_seen = self._progress
            self._since = now
        elif self._write_paused:
            self._check_flushed(now)
        elif self._tunnel_half_closed:
            if waited > limits.idle_timeout:
                self.abort()  # one side of the tunnel is closed; the other is idle and stays open
        elif self._tunnel is not None:
            if waited > self._tunnel_idle:
                self.idled = True
                self.abort()
        elif self._client_half_closed:
            if waited > HALF_CLOSED_SECONDS:
                self.abort()
        elif waited > limits.body_timeout and not self._paused_by and self._decoder and self._exchange:
            self._body_failed(self._exchange, Failure(Kind.BODY_TIMEOUT, "body timeout: no data"))

    def _reject_slow_body(self, now: float) -> bool:
        """Reject a request body that arrives too slowly; return whether it was rejected.

        The rate is not checked while the gateway itself has paused reading.
        """
        limits = self._listener.limits
        seconds = now - self._received_since
        if seconds < limits.body_timeout and not self._paused_by:
            return False
        received, self._received, self._received_since = self._received, 0, now
        if self._paused_by and not self._write_paused:
            self._since = now  # the body timeout, too, restarts when reading resumes
        if self._paused_by or received >= limits.body_rate * seconds or self._exchange is None:
            return False
        self._body_failed(self._exchange, Failure(Kind.BODY_TIMEOUT, f"{received} bytes in {seconds:.1f} s"))
        return True

    def _check_flushed(self, now: float) -> bool:
        """Return whether all output was sent; abort the connection after ``write_timeout`` without progress.

        A plain close would wait forever for a client that does not read. An immediate abort would truncate the response
        of a client that reads slowly: for a long time its progress is visible in the kernel alone, which holds
        megabytes.
        """
        unsent = self._pending
        if unsent == 0 or self._transport is None:
            return True
        sock = self._transport.get_extra_info("socket")
        unsent += unsent_bytes(sock.fileno()) if sock is not None else 0
        if unsent != self._unsent:
            self._unsent = unsent
            self._since = now
        elif now - self._since > self._listener.limits.write_timeout:
            self.abort()
        return False

    @property
    def _client_half_closed(self) -> bool:
        """Whether a response is being sent to a client that has closed its sending side, and so may be gone.

        While reading is paused, the kernel is polled: no event reports the half-close then.
        """
        if not self._started or self._exchange is None:
            return False
        if self._eof or not self._paused_by or self._transport is None:
            return self._eof
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    @property
    def _pending(self) -> int:
        """Bytes written to the transport that the kernel has not accepted yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @abstractmethod
    def invalidate_head(self) -> None:
        """Forget the last request head and everything derived from it."""

    @abstractmethod
    def _refuse(self, failure: Failure) -> None:
        """Respond with an error to a message that is not a valid request, and close the connection."""

    @abstractmethod
    def _body_failed(self, exchange: ServerExchange, failure: Failure) -> None:
        """Report to ``exchange`` that the request body cannot be completed, and read no more of it."""
