"""A service as the gateway uses it: its node, its instances with their pools, its counters, what it lets be retried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from passerelle.balancing.health import reached_failure_limit
from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import PickerNode
from passerelle.balancing.sticky import Sticky
from passerelle.http.messages import IDEMPOTENT_METHODS
from passerelle.http1.head import RequestHead
from passerelle.observability.metrics import ServiceMetrics
from passerelle.resilience.circuit_breaker import CircuitBreaker
from passerelle.resilience.retry_budget import RetryBudget

if TYPE_CHECKING:
    from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter
    from passerelle.upstream.interfaces import ResponseStream


"""What instances go to."""


# The key of a request, from its head, its route's parameters and the client's address; None where it has none.
KeyFunction = Callable[[RequestHead, Mapping[str, bytes], bytes], bytes | None]


class RetryRules(NamedTuple):
    """What may be sent again after it was sent, after which answers, and how soon (seconds)."""

    methods: frozenset[bytes] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset()
    base_delay: float = 0.025
    max_delay: float = 1.0


class StickyCookie(NamedTuple):
    """The cookie that keeps a client at its instance."""

    name: bytes
    node: Sticky


class Service:
    """``node`` picks; every instance's ``endpoint`` is a :class:`ConnectionPool`. ``streaming`` are the answers under
    way.

    ``started`` counts requests for the retry budget: a plain addition a request, read only when a retry is wanted.
    It stays the same object over reloads; what it refers to is replaced.
    """

    __slots__ = (
        "_counted_requests",
        "_overload_reported",
        "breaker",
        "budget",
        "cookie",
        "eject_after",
        "key",
        "limiter",
        "metrics",
        "name",
        "node",
        "report",
        "retries",
        "started",
        "streaming",
        "supervised",
    )

    def __init__(self, name: str, node: PickerNode, metrics: ServiceMetrics) -> None:
        self.name = name
        self.node = node
        self.metrics = metrics
        self.streaming: set[ResponseStream] = set()
        self.breaker: CircuitBreaker | None = None
        self.limiter: ConcurrencyLimiter | None = None
        self.budget = RetryBudget()
        self.retries = RetryRules()
        self.key: KeyFunction | None = None
        self.cookie: StickyCookie | None = None
        self.eject_after = 0  # failures in a row; 0 is never
        self.report: Callable[[str, str, str], None] = _report_to_none  # event, service, instance
        self.supervised = False  # somebody tells which instances are gone
        self.started = 0
        self._counted_requests = 0  # of `started`, in the budget
        self._overload_reported = -inf  # when that was last told

    def breaker_state(self) -> str | None:
        """The name of its circuit breaker's state; None without one."""
        return self.breaker.state.value if self.breaker is not None else None

    def concurrency(self) -> dict[str, int] | None:
        """Its adaptive limit, and how many run under it and wait for it; None without one."""
        return self.limiter.snapshot() if self.limiter is not None else None

    def snapshot(self) -> dict[str, Any]:
        """What is known of it beside its instances, as JSON-able values."""
        return {"breaker": self.breaker_state(), "concurrency": self.concurrency()}

    def report_failure(self, instance: Instance) -> None:
        """A failure of ``instance`` was just counted."""
        if self.eject_after and reached_failure_limit(instance, self.eject_after):
            self.report("misbehaved", self.name, instance.identity)

    def report_overload(self) -> None:
        """A request was refused because its instance is full. Told once a second: there may be thousands."""
        now = perf_counter()
        if now - self._overload_reported >= 1.0:
            self._overload_reported = now
            self.report("crowded", self.name, "")

    def record_requests(self, now: float) -> None:
        """Let the budget know of the requests since the last time (``now`` in seconds)."""
        if self.started != self._counted_requests:
            self.budget.record_requests(now, self.started - self._counted_requests)
            self._counted_requests = self.started

    def may_hedge(self, now: float) -> bool:
        """Take a hedge out of the budget; False when that would leave less than half of it to retries."""
        self.record_requests(now)
        return self.budget.withdraw(now, 0.5)

    def may_retry(self, now: float) -> bool:
        """Take a retry out of the budget; False when there is none left."""
        self.record_requests(now)
        return self.budget.withdraw(now)


def _report_to_none(event: str, service: str, instance: str) -> None:
    """Nobody decides about health."""
