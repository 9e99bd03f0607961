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
from passerelle.security.credentials.bounded_memo import Remembered
from passerelle.security.guard import Asked
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
Done = Callable[[Verdict | Failure], None]


class _Question:
    """One question under way; ``first`` is the request that it was asked for."""

    __slots__ = ("_waiting", "answer", "first", "guard", "key")

    def __init__(self, guard: ForwardAuth, key: bytes | None, first: Asked) -> None:
        self.guard = guard
        self.key = key
        self.first: Asked | None = first
        self.answer: Verdict | Failure | None = None
        self._waiting: list[Callable[[], None]] = []

    def then(self, call: Callable[[], None]) -> None:
        """Call when it is answered."""
        self._waiting.append(call)

    def end(self, answer: Verdict | Failure) -> None:
        """It is answered, or never will be."""
        self.answer = answer
        self.guard.ended(self)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
        self.first = None  # the request holds this as what it waits for: the two would be a cycle


class ForwardAuth:
    """The guard. ``ask`` puts the question; ``key`` says which questions are the same, None where each is asked.

    ``copied`` names the fields (lower case, ``-`` for ``_``) that the service speaks of: a client's own never go
    upstream. ``open_on_failure`` lets requests pass while nobody answers; ``failed`` hears of each time. ``count``
    hears what becomes of each request: ``allowed``, ``denied`` or ``failed``, and why. ``clock`` gives seconds and
    never goes back.
    """

    __slots__ = ("_ask", "_clock", "_copied", "_count", "_failed", "_flights", "_key", "_known", "_open")

    def __init__(
        self,
        ask: Callable[[Asked, Done], None],
        copied: Collection[bytes],
        key: Callable[[Asked], bytes] | None,
        *,
        clock: Callable[[], float],
        open_on_failure: bool = False,
        failed: Callable[[Failure], None] | None = None,
        count: Callable[[str, str], None] = lambda verdict, reason: None,
    ) -> None:
        self._ask = ask
        self._copied = frozenset(copied)
        self._key = key
        self._clock = clock
        self._open = open_on_failure
        self._failed = failed
        self._count = count
        self._flights: dict[bytes, _Question] = {}
        self._known: Remembered[tuple[float, Verdict]] = Remembered()

    def __call__(self, asked: Asked) -> Response | _Question | None:
        """Let it pass, or answer with what the service said."""
        question = asked.pending
        if isinstance(question, _Question) and question.guard is self:
            asked.pending = None
            answer = question.answer
            shared = isinstance(answer, Failure) or (answer is not None and answer.seconds > 0.0)
            if answer is not None and (shared or question.first is asked):
                return self._follow(asked, answer)
            key = None  # what was said to another client was for that one alone
        else:
            key = self._key(asked) if self._key is not None else None
            known = self._known.get(key) if key is not None else None
            if known is not None and known[0] > self._clock():
                return self._follow(asked, known[1])
        return self._put(asked, key)

    def ended(self, question: _Question) -> None:
        """A question is answered: remember what may be remembered."""
        key, answer = question.key, question.answer
        if key is None:
            return
        self._flights.pop(key, None)
        self._known.pop(key, None)
        if isinstance(answer, Verdict) and answer.seconds > 0.0 and answer.size <= LARGEST:
            self._known.keep(key, (self._clock() + answer.seconds, answer), REMEMBERED)

    def _put(self, asked: Asked, key: bytes | None) -> Response | _Question | None:
        question = self._flights.get(key) if key is not None else None
        if question is None:
            question = _Question(self, key, asked)
            if key is not None:
                self._flights[key] = question
            self._ask(asked, question.end)
            if question.answer is not None:
                return self._follow(asked, question.answer)
        asked.pending = question
        return question

    def _follow(self, asked: Asked, answer: Verdict | Failure) -> Response | None:
        if isinstance(answer, Failure):
            self._count("failed", answer.kind.value)
            if self._failed is not None:
                self._failed(answer)
            if not self._open:
                raise Failure(Kind.UNVERIFIABLE, f"forward_auth: {answer}")
            answer = Verdict()
        elif answer.refusal is not None:
            self._count("denied", f"{answer.refusal.status // 100}xx")
            return answer.refusal
        else:
            self._count("allowed", "2xx")
        if self._copied:
            own = [field.line for field in asked.fields if field.name.replace(b"_", b"-") in self._copied]
            asked.withheld = [*asked.withheld, *own]
        if answer.lines:
            asked.upstream += answer.lines
            # Services may answer by what they are told here, so answers are not stored for everybody.
            asked.vouched = blake2b(answer.lines, digest_size=16).digest()
        if answer.identity is not None:
            asked.identity = answer.identity
            asked.upstream += answer.identity.lines
        return None
