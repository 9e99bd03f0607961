"""Guard that delegates authorization to a service, and caches its verdicts.

The caller provides ``ask``, which sends the subrequest. This module decides when a subrequest is needed, which requests
share a verdict, and how a verdict is applied. Concurrent requests with the same key wait for one subrequest if their
verdicts may be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from hashlib import blake2b

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity

# Maximum number of cached verdicts per route and worker, and the maximum size of each in bytes: 8 MB in total.
REMEMBERED = 4096
LARGEST = 2048


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict of the service.

    ``refusal`` is the response for the client, or None if the request is allowed; ``lines`` (each with CRLF) are then
    added to the forwarded request, and ``identity`` is the client's identity if the service named one. The verdict may
    be used for other requests, and for ``seconds``. ``response_lines`` (each with CRLF) are added to the response to
    the client.
    """

    refusal: Response | None = None
    lines: bytes = b""
    identity: Identity | None = None
    seconds: float = 0.0
    response_lines: bytes = b""

    @property
    def size(self) -> int:
        """Return the size in octets."""
        if self.refusal is None:
            return len(self.lines)
        return len(self.refusal.body) + sum(len(name) + len(value) for name, value in self.refusal.fields)


# Called once with the result of a subrequest: immediately or later, within a bounded time.
VerdictCallback = Callable[[Verdict | Failure], None]


class _PendingVerdict:
    """Subrequest in flight; ``first_call`` is the request that caused it."""

    __slots__ = ("_waiting", "first_call", "guard", "key", "verdict")

    def __init__(self, guard: ForwardAuth, key: bytes | None, first: GuardedCall) -> None:
        self.guard = guard
        self.key = key
        self.first_call: GuardedCall | None = first
        self.verdict: Verdict | Failure | None = None
        self._waiting: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the verdict is there."""
        self._waiting.append(callback)

    def complete(self, verdict: Verdict | Failure) -> None:
        """Complete with a verdict or a failure."""
        self.verdict = verdict
        self.guard.on_verdict(self)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
        self.first_call = None  # the request refers to this object as pending: drop the reference cycle


class ForwardAuth:
    """Guard for forward auth. ``ask`` sends the subrequest; ``key`` returns the cache key, None for verdicts not
    shared.

    ``copied`` names the fields (lower case, ``-`` for ``_``) that the service may set: the client's own fields of these
    names are never forwarded. With ``open_on_failure``, requests pass while the service fails; ``failed`` is called for
    each of them. ``count`` is called with the outcome of each request: ``allowed``, ``denied`` or ``failed``, and the
    reason. ``clock`` gives seconds and is monotonic.
    """

    __slots__ = ("_clock", "_copied", "_count", "_failed", "_key", "_known", "_open", "_pending", "_send")

    def __init__(
        self,
        ask: Callable[[GuardedCall, VerdictCallback], None],
        copied: Collection[bytes],
        key: Callable[[GuardedCall], bytes] | None,
        *,
        clock: Callable[[], float],
        open_on_failure: bool = False,
        failed: Callable[[Failure], None] | None = None,
        count: Callable[[str, str], None] = lambda verdict, reason: None,
    ) -> None:
        self._send = ask
        self._copied = frozenset(copied)
        self._key = key
        self._clock = clock
        self._open = open_on_failure
        self._failed = failed
        self._count = count
        self._pending: dict[bytes, _PendingVerdict] = {}
        self._known: BoundedMemo[tuple[float, Verdict]] = BoundedMemo()

    def __call__(self, call: GuardedCall) -> Response | _PendingVerdict | None:
        """Let the request pass, or respond with what the service returned."""
        pending = call.pending
        if isinstance(pending, _PendingVerdict) and pending.guard is self:
            call.pending = None
            verdict = pending.verdict
            shared = isinstance(verdict, Failure) or (verdict is not None and verdict.seconds > 0.0)
            if verdict is not None and (shared or pending.first_call is call):
                return self._apply_verdict(call, verdict)
            key = None  # a verdict for another client applied to that client alone
        else:
            key = self._key(call) if self._key is not None else None
            known = self._known.get(key) if key is not None else None
            if known is not None and known[0] > self._clock():
                return self._apply_verdict(call, known[1])
        return self._request(call, key)

    def on_verdict(self, pending: _PendingVerdict) -> None:
        """Store a verdict, if it may be stored."""
        key, verdict = pending.key, pending.verdict
        if key is None:
            return
        self._pending.pop(key, None)
        self._known.pop(key, None)
        if isinstance(verdict, Verdict) and verdict.seconds > 0.0 and verdict.size <= LARGEST:
            self._known.keep(key, (self._clock() + verdict.seconds, verdict), REMEMBERED)

    def _request(self, call: GuardedCall, key: bytes | None) -> Response | _PendingVerdict | None:
        pending = self._pending.get(key) if key is not None else None
        if pending is None:
            pending = _PendingVerdict(self, key, call)
            if key is not None:
                self._pending[key] = pending
            self._send(call, pending.complete)
            if pending.verdict is not None:
                return self._apply_verdict(call, pending.verdict)
        call.pending = pending
        return pending

    def _apply_verdict(self, call: GuardedCall, verdict: Verdict | Failure) -> Response | None:
        if isinstance(verdict, Failure):
            self._count("failed", verdict.kind.value)
            if self._failed is not None:
                self._failed(verdict)
            if not self._open:
                raise Failure(Kind.UNVERIFIABLE, f"forward_auth: {verdict}")
            verdict = Verdict()
        elif verdict.refusal is not None:
            self._count("denied", f"{verdict.refusal.status // 100}xx")
            return verdict.refusal
        else:
            self._count("allowed", "2xx")
        if self._copied:
            own = [field.line for field in call.fields if field.name.replace(b"_", b"-") in self._copied]
            call.hidden_lines = [*call.hidden_lines, *own]
        if verdict.lines:
            call.upstream_fields += verdict.lines
            # The service may vary its responses by these fields, so a stored response is not shared across their
            # values.
            call.variant_identity = blake2b(verdict.lines, digest_size=16).digest()
        call.response_fields += verdict.response_lines
        if verdict.identity is not None:
            call.identity = verdict.identity
            call.upstream_fields += verdict.identity.lines
        return None
