"""How long a client is waited for: for its head, its body, its taking what was sent, its next request."""

from __future__ import annotations

import select
from abc import abstractmethod

from passerelle.errors import Failure, Kind
from passerelle.http1.interfaces import ServerExchange
from passerelle.http1.server.listener import Listener
from passerelle.http1.server.response_writer import ResponseWriter

# How long a client may go on sending after we said our last word (RFC 9112 §9.6).
LINGER_SECONDS = 2.0
# How long an idle connection keeps its last head for comparison.
FORGET_SECONDS = 2.0
# How long a response may stand still for a client that sends no more (seconds). Whether such a client still reads shows
# only when something is written to it, and a silent event stream writes nothing.
HALF_CLOSED_SECONDS = 5.0


class ClientTimeouts(ResponseWriter):
    """A connection that is looked at from time to time, and ended when its client has taken too long."""

    __slots__ = ("_linger_left", "_received", "_received_since", "_seen", "_stuck", "_unsent")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._linger_left = -1
        self._received = 0  # of a body, since the time below
        self._received_since = 0.0
        self._seen = -1
        self._stuck = False
        self._unsent = 0

    def check_time(self, now: float) -> None:
        """Close what has waited too long at ``now`` (monotonic seconds)."""
        limits = self._listener.limits
        waited = now - self._since
        if self._decoder is not None and self._ends_slow_body(now):
            return
        if self.closing:
            self._ends_stalled_write(now)
        elif self._linger_left >= 0:
            if waited > LINGER_SECONDS and self._ends_stalled_write(now):
                self.abort()
        elif self._exchange is None and not self._stuck:
            if self._buffer:
                if waited > limits.head_timeout:
                    self._buffer = b""
                    self._refuse(Failure(Kind.HEAD_TIMEOUT, "head incomplete"))
            elif waited > limits.idle_timeout:
                if self._ends_stalled_write(now):
                    self.close()
            elif waited > FORGET_SECONDS:
                self.invalidate_head()  # 2.5 KB that an idle connection need not hold
        elif self._progress != self._seen or not (
            self._stuck or self._tunnel is not None or self._decoder is not None or self._half_closed
        ):
            self._seen = self._progress
            self._since = now
        elif self._stuck:
            self._ends_stalled_write(now)
        elif self._half_open:
            if waited > limits.idle_timeout:
                self.abort()  # one side of the tunnel has ended long ago; the other neither speaks nor ends
        elif self._tunnel is not None:
            if waited > self._tunnel_idle:
                self.idled = True
                self.abort()
        elif self._half_closed:
            if waited > HALF_CLOSED_SECONDS:
                self.abort()
        elif waited > limits.body_timeout and not self._paused_by and self._decoder and self._exchange:
            self._body_failed(self._exchange, Failure(Kind.BODY_TIMEOUT, "no byte of the body for too long"))

    def _ends_slow_body(self, now: float) -> bool:
        """Whether so little of a body came since the last look that it was given up; not where we did not read it."""
        limits = self._listener.limits
        seconds = now - self._received_since
        if seconds < limits.body_timeout and not self._paused_by:
            return False
        received, self._received, self._received_since = self._received, 0, now
        if self._paused_by and not self._stuck:
            self._since = now  # also the time without any byte begins when it is read again
        if self._paused_by or received >= limits.body_rate * seconds or self._exchange is None:
            return False
        self._body_failed(self._exchange, Failure(Kind.BODY_TIMEOUT, f"{received} bytes of it in {seconds:.1f} s"))
        return True

    def _ends_stalled_write(self, now: float) -> bool:
        """Whether the client has taken what was written; one that takes nothing for ``write_timeout`` is cut off.

        Closing alone would wait for such a client for ever, and ending the connection would cut short a slow one.
        """
        unsent = self._pending
        if unsent == 0:
            return True
        if unsent != self._unsent:
            self._unsent = unsent
            self._since = now
        elif now - self._since > self._listener.limits.write_timeout:
            self.abort()
        return False

    @property
    def _half_closed(self) -> bool:
        """Whether a response is being sent to a client that sends no more: then it may be gone.

        The kernel is asked where we do not read, because nothing else tells of it then.
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
        """Bytes that were written and not yet taken by the kernel."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @abstractmethod
    def invalidate_head(self) -> None:
        """Forget the last request head and everything derived from it."""

    @abstractmethod
    def _refuse(self, failure: Failure) -> None:
        """Respond to a message that is no request, and close the connection."""

    @abstractmethod
    def _body_failed(self, exchange: ServerExchange, failure: Failure) -> None:
        """Report to ``exchange`` that the request body cannot be completed, and read no more of it."""
