"""Shadow requests: a sampled share of the requests of a route is sent to a second service too, and compared.

The client's response comes first. It is relayed as without a shadow, while a copy of it is kept up to a bound. The
shadow request starts when it is complete. Whatever the second service does then, no client waits for it. The number
of shadow requests in flight, their queue, the bytes kept for them and their time are bounded; what exceeds a bound is
dropped and counted.

For a share of the sampled requests, the first service is asked a second time (a control request): what differs between
its own two responses is noise (see :mod:`passerelle.crossing.ledger`).
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import random
from typing import Any, Final

from passerelle.crossing.compare_json import Difference, Incomparable
from passerelle.crossing.compare_responses import CapturedResponse, ResponseComparer
from passerelle.crossing.latency import LatencyHistogram
from passerelle.crossing.ledger import Ledger
from passerelle.errors import Failure
from passerelle.http.messages import SAFE_METHODS
from passerelle.security.header_rules import lines_of
from passerelle.upstream.captured import Capture, Outcome, Tee
from passerelle.upstream.interfaces import ResponseReceiver
from passerelle.upstream.passing import PassingMaker
from passerelle.upstream.request import CallPolicy, RequestMaker, UpstreamRequest
from passerelle.upstream.request_body import RequestBody

MARK: Final = b"Passerelle-Shadow: 1\r\n"
"""The field by which a service recognizes a shadow request."""
AT_ONCE: Final = 8192
"""Bytes of two bodies that are compared without a thread: about 1 ms."""
QUEUE: Final = 64
"""Shadow requests that wait for one in flight to end; further ones are dropped."""
MOST_KEPT: Final = 16 << 20
"""Bytes of copies that one route keeps for shadow requests, in one worker; beyond, requests are dropped."""

CREDENTIALS: Final = (b"authorization", b"cookie", b"proxy-authorization")
"""The fields by which clients authenticate, besides those that the configuration names."""


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """Which requests are copied, and within which bounds.

    ``sample`` and ``control`` are shares from 0 to 1; ``control`` is that of the sampled requests. ``max_body`` is the
    longest response body that is compared, in bytes. ``concurrency`` is the most shadow requests of one worker.
    ``removed`` are the names of the fields that the shadow does not receive, in lower case.
    """

    sample: float
    methods: frozenset[bytes]
    control: float
    max_body: int
    concurrency: int
    removed: frozenset[bytes]


class ShadowResults:
    """What the shadow requests of one route found, in one worker."""

    __slots__ = ("_differing", "_key", "_past", "dropped", "failed", "ledger", "new_latency", "old_latency", "sent")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._past: Counter[str] = Counter()  # outcomes before the last reset
        self._begin()

    def reset(self) -> None:
        """Begin to count again."""
        self._past.update(self._outcomes())
        self._begin()

    def _begin(self) -> None:
        self._differing = (0, 0, 0)
        self.ledger = Ledger(self._key)
        self.sent = 0
        self.dropped: Counter[str] = Counter()  # by reason: overflow, too_large
        self.failed: Counter[str] = Counter()  # shadow requests without a response, by kind
        self.old_latency = LatencyHistogram()  # until the first byte of the response
        self.new_latency = LatencyHistogram()

    def _outcomes(self) -> dict[str, int]:
        return {
            "compared": self.ledger.comparisons,
            "not_compared": self.ledger.incomparable.total(),
            "dropped": self.dropped.total(),
            "failed": self.failed.total(),
        }

    def metrics(self) -> dict[str, Any]:
        """Return the outcomes of shadow requests, which a reset does not decrease, and the number that differ now."""
        ledger = self.ledger
        if self._differing[:2] != (ledger.comparisons, ledger.controls):  # what is noise is judged again
            self._differing = (ledger.comparisons, ledger.controls, ledger.differing)
        outcomes = {name: count + self._past[name] for name, count in self._outcomes().items()}
        return {"outcomes": outcomes, "differing": self._differing[2]}

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object (see :mod:`passerelle.crossing.report`)."""
        return {
            "sent": self.sent,
            "dropped": dict(self.dropped),
            "failed": dict(self.failed),
            "old_latency": self.old_latency.counts,
            "new_latency": self.new_latency.counts,
            "ledger": self.ledger.to_json(),
        }


@dataclass(slots=True)
class _Copy:
    """A request that was answered by the first service, and its response."""

    method: bytes
    message: bytes
    body: bytes
    response: CapturedResponse
    seconds: float

    @property
    def size(self) -> int:
        return len(self.message) + len(self.body) + len(self.response.body)


class Shadow(PassingMaker):
    """Makes the requests of a route, and the shadow requests. Stands in a call policy for the class of requests."""

    __slots__ = (
        "_comparer",
        "_in_flight",
        "_kept",
        "_old",
        "_policy",
        "_queue",
        "_removed",
        "_settings",
        "results",
    )

    def __init__(
        self,
        old: CallPolicy,
        new: CallPolicy,
        settings: ShadowSettings,
        comparer: ResponseComparer,
        results: ShadowResults,
    ) -> None:
        super().__init__(old.make_request)
        self._old = old
        self._policy = new
        self._settings = settings
        self._comparer = comparer
        self._removed = lines_of(settings.removed, aliases=True) if settings.removed else None
        self._queue: deque[_Copy] = deque()
        self._kept = 0
        self._in_flight = 0
        self.results = results

    def make_with(
        self,
        make: RequestMaker,
        policy: CallPolicy,
        receiver: ResponseReceiver,
        method: bytes,
        message: bytes,
        body: RequestBody | None,
        now: float,
    ) -> UpstreamRequest:
        """Make the request of a client, with a copy of its response if it is sampled."""
        settings = self._settings
        if method in settings.methods and random() < settings.sample:
            receiver = Tee(receiver, settings.max_body, partial(self._submit, method, message, body))
        return make(policy, receiver, method, message, body, now)

    def _submit(
        self, method: bytes, message: bytes, body: RequestBody | None, response: CapturedResponse, seconds: float
    ) -> None:
        """Send a shadow request as soon as the bounds allow, or drop it."""
        sent = b"" if body is None else body.whole()
        if sent is None or not response.complete:
            self.results.dropped["too_large"] += 1
            return
        copy = _Copy(method, message, sent, response, seconds)
        if self._in_flight < self._settings.concurrency:
            self._in_flight += 1
            self._send(copy)
        elif len(self._queue) < QUEUE and self._kept + copy.size <= MOST_KEPT:
            self._queue.append(copy)
            self._kept += copy.size
        else:
            self.results.dropped["overflow"] += 1

    def _send(self, copy: _Copy) -> None:
        self.results.sent += 1
        head = copy.message[:-2]
        if self._removed is not None:
            head = self._removed.sub(b"", head)
        message = head + MARK + b"\r\n" + copy.body
        most = self._settings.max_body
        Capture(self._policy, copy.method, message, most, partial(self._on_shadow, copy))

    def _on_shadow(self, copy: _Copy, outcome: Outcome) -> None:
        results = self.results
        if isinstance(outcome, Failure):
            results.failed[outcome.kind.value] += 1
            self._control(copy)
            return
        response, seconds = outcome
        results.old_latency.add(copy.seconds)
        results.new_latency.add(seconds)
        self._compare(copy.response, response, results.ledger.add, partial(self._control, copy))

    def _control(self, copy: _Copy) -> None:
        """Ask the first service again, for a share of the requests."""
        if copy.method in SAFE_METHODS and random() < self._settings.control:
            message, most = copy.message + copy.body, self._settings.max_body
            Capture(self._old, copy.method, message, most, partial(self._on_control, copy))
        else:
            self._end()

    def _on_control(self, copy: _Copy, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._end()
        else:
            self._compare(copy.response, outcome[0], self.results.ledger.add_control, self._end)

    def _compare(
        self,
        old: CapturedResponse,
        new: CapturedResponse,
        add: Callable[[list[Difference]], None],
        proceed: Callable[[], None],
    ) -> None:
        """Compare two responses, long ones in a thread: a comparison may take 100 ms, in which no client must wait.

        The place of the request is kept until then, so that comparisons cannot pile up.
        """
        incomparable = self.results.ledger.add_incomparable
        if old.body == new.body or len(old.body) + len(new.body) <= AT_ONCE:
            _deliver(partial(self._comparer.compare, old, new), add, incomparable, proceed)
            return
        future = get_running_loop().run_in_executor(_EXECUTOR, self._comparer.compare, old, new)
        future.add_done_callback(lambda done: _deliver(done.result, add, incomparable, proceed))

    def _end(self) -> None:
        self._in_flight -= 1
        if self._queue:
            copy = self._queue.popleft()
            self._kept -= copy.size
            self._in_flight += 1
            # Not at once: a service that refuses connections would make this a recursion.
            get_running_loop().call_soon(self._send, copy)


_EXECUTOR: Final = ThreadPoolExecutor(1, "passerelle-compare")


def _deliver(
    result: Callable[[], list[Difference]],
    add: Callable[[list[Difference]], None],
    incomparable: Callable[[str], None],
    proceed: Callable[[], None],
) -> None:
    """Count the result of a comparison, and proceed."""
    try:
        add(result())
    except Incomparable as reason:
        incomparable(str(reason))
    finally:
        proceed()
