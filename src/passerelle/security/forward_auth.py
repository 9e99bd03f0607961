"""The guard that asks a service whether a request may pass, and remembers the answer for a while.

What is asked and how is the business of ``ask``; here is who has to ask, who may share an answer, and what follows from
it. Requests whose questions are the same wait for one answer together, where answers may be shared at all.
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

# Answers that are remembered, for each route and worker, and the largest of them in bytes: 8 MB at most.
REMEMBERED = 4096
LARGEST = 2048


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the service said. ``refusal`` is for the client, None where it may pass; ``lines`` (CRLF after each) then
    go upstream, ``identity`` is who it is, if the service says so. For others, and later, it holds for ``seconds``."""

    refusal: Response | None = None
    lines: bytes = b""
    identity: Identity | None = None
    seconds: float = 0.0

    @property
    def size(self) -> int:
        """Its octets."""
        if self.refusal is None:
            return len(self.lines)
        return len(self.refusal.body) + sum(len(name) + len(value) for name, value in self.refusal.fields)


# Told of the end of a question, once: at once or later, within a bounded time.
VerdictCallback = Callable[[Verdict | Failure], None]


class _PendingVerdict:
    """One question under way; ``first_call`` is the request that it was asked for."""

    __slots__ = ("_waiting", "first_call", "guard", "key", "verdict")

    def __init__(self, guard: ForwardAuth, key: bytes | None, first: GuardedCall) -> None:
        self.guard = guard
        self.key = key
        self.first_call: GuardedCall | None = first
        self.verdict: Verdict | Failure | None = None
        self._waiting: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call when it is answered."""
        self._waiting.append(callback)

    def complete(self, verdict: Verdict | Failure) -> None:
        """It is answered, or never will be."""
        self.verdict = verdict
        self.guard.on_verdict(self)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
        self.first_call = None  # the request holds this as what it waits for: the two would be a cycle


class ForwardAuth:
    """The guard. ``ask`` puts the question; ``key`` says which questions are the same, None where each is asked.

    ``copied`` names the fields (lower case, ``-`` for ``_``) that the service speaks of: a client's own never go
    upstream. ``open_on_failure`` lets requests pass while nobody answers; ``failed`` hears of each time. ``count``
    hears what becomes of each request: ``allowed``, ``denied`` or ``failed``, and why. ``clock`` gives seconds and
    never goes back.
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
        """Let it pass, or answer with what the service said."""
        pending = call.pending
        if isinstance(pending, _PendingVerdict) and pending.guard is self:
            call.pending = None
            verdict = pending.verdict
            shared = isinstance(verdict, Failure) or (verdict is not None and verdict.seconds > 0.0)
            if verdict is not None and (shared or pending.first_call is call):
                return self._apply_verdict(call, verdict)
            key = None  # what was said to another client was for that one alone
        else:
            key = self._key(call) if self._key is not None else None
            known = self._known.get(key) if key is not None else None
            if known is not None and known[0] > self._clock():
                return self._apply_verdict(call, known[1])
        return self._request(call, key)

    def on_verdict(self, pending: _PendingVerdict) -> None:
        """A question is answered: remember what may be remembered."""
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
            # Services may answer by what they are told here, so answers are not stored for everybody.
            call.variant_identity = blake2b(verdict.lines, digest_size=16).digest()
        if verdict.identity is not None:
            call.identity = verdict.identity
            call.upstream_fields += verdict.identity.lines
        return None
