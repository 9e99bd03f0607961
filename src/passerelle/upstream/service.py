"""A service at run time: the node that picks its instances, its metrics, and its rules for retries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from passerelle.balancing.health import reached_failure_limit
from passerelle.balancing.instance import Instance, count_failure
from passerelle.balancing.policies import PickerNode
from passerelle.balancing.sticky import Sticky, set_cookie
from passerelle.errors import Kind
from passerelle.http.messages import IDEMPOTENT_METHODS
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.observability.metrics import ServiceMetrics
from passerelle.resilience.circuit_breaker import CircuitBreaker
from passerelle.resilience.retry_budget import RetryBudget
from passerelle.upstream.tunnels import Tunnels

if TYPE_CHECKING:
    from passerelle.upstream.concurrency_limiter import ConcurrencyLimiter
    from passerelle.upstream.forwarding_fields import ForwardingFields
    from passerelle.upstream.interfaces import ResponseStream


# Computes the balancing key of a request from its head, the parameters of its route and the address of the client.
# The result is None for a request without a key.
KeyFunction = Callable[[RequestHead, Mapping[str, bytes], bytes], bytes | None]


SERVER_ERROR = "server_error"
"""The kind of failure of an attempt with a 5xx response, beside those of :class:`passerelle.errors.Kind`."""


class RetryRules(NamedTuple):
    """Which requests may be retried after they were sent, on which statuses, and after which delay (seconds)."""

    methods: frozenset[bytes] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset()
    base_delay: float = 0.025
    max_delay: float = 1.0


class StickyCookie(NamedTuple):
    """The cookie that keeps a client at its instance, and the node that reads it."""

    name: bytes
    node: Sticky

    def line(self, instance: Instance, key: bytes | None, secure: bool) -> bytes:
        """Return the Set-Cookie line that names ``instance``; empty where it is the cookie ``key`` of the request."""
        token = self.node.token(instance)
        if token == key:
            return b""
        return b"Set-Cookie: %b\r\n" % set_cookie(self.name, token, secure=secure)


class Service:
    """One service. The object stays the same over reloads; its attributes are replaced.

    ``node`` picks instances. The ``endpoint`` of each instance is a :class:`ConnectionPool`. ``streaming`` are the
    responses whose bodies are in flight. ``started`` counts requests for the retry budget: one addition per request,
    and the budget reads the count only when a retry is wanted.
    """

    __slots__ = (
        "_counted_requests",
        "_overload_reported",
        "breaker",
        "budget",
        "cookie",
        "eject_after",
        "forwarding",
        "host",
        "keeps_host",
        "key",
        "limiter",
        "metrics",
        "name",
        "node",
        "path",
        "report",
        "retries",
        "samples_timing",
        "started",
        "streaming",
        "supervised",
        "tunnels",
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
        self.host: bytes | None = None  # the Host of AddressedRequest; None for the address of the instance
        self.keeps_host = True  # whether AddressedRequest keeps the Host of the client
        self.path = b""  # what AddressedRequest puts before the path of the request
        self.forwarding: ForwardingFields | None = None  # what AddressedRequest adds
        self.eject_after = 0  # consecutive failures; 0 for never
        self.report: Callable[[str, str, str], None] = (
            _report_to_none  # event, service, instance (of a breaker: its state)
        )
        self.supervised = False  # a supervisor reports which instances are gone
        self.tunnels = Tunnels()
        self.samples_timing = False  # whether the Server-Timing of the next response is evaluated
        self.started = 0
        self._counted_requests = 0  # the part of `started` that the budget knows
        self._overload_reported = -inf  # the time of the last report

    def breaker_state(self) -> str | None:
        """Return the name of the circuit breaker's state; None without a circuit breaker."""
        return self.breaker.state.value if self.breaker is not None else None

    def concurrency(self) -> dict[str, int] | None:
        """Return the concurrency limit and the numbers of running and waiting requests; None without a limit."""
        return self.limiter.snapshot() if self.limiter is not None else None

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the service without its instances, as JSON-serializable values."""
        return {"breaker": self.breaker_state(), "concurrency": self.concurrency()}

    def count_failure(self, instance: Instance, kind: Kind, seconds: float) -> None:
        """Count an attempt at ``instance`` that failed after ``seconds``."""
        self.metrics.count_failure(kind, seconds)
        count_failure(instance, kind.value)

    def count_error(self, instance: Instance, status: int, seconds: float) -> None:
        """Count an attempt at ``instance`` with a 5xx ``status`` that another attempt replaces."""
        self.metrics.observe(status, seconds)
        count_failure(instance, SERVER_ERROR)

    def report_failure(self, instance: Instance) -> None:
        """Report ``instance`` for ejection if the failure just counted reaches the limit."""
        if self.eject_after and reached_failure_limit(instance, self.eject_after):
            self.report("misbehaved", self.name, instance.identity)

    def report_overload(self) -> None:
        """Report that a request was refused for lack of room, at most once a second: there may be thousands."""
        now = perf_counter()
        if now - self._overload_reported >= 1.0:
            self._overload_reported = now
            self.report("crowded", self.name, "")

    def sample_timing(self, head: ResponseHead, seconds: float) -> None:
        """Evaluate the Server-Timing of a response that began after ``seconds``, and of no further one for now."""
        self.samples_timing = False
        value = head.get(b"server-timing")
        if value is not None:
            self.metrics.timings.add(value, seconds)

    def record_requests(self, now: float) -> None:
        """Add the requests since the last call to the retry budget (``now`` in seconds)."""
        if self.started != self._counted_requests:
            self.budget.record_requests(now, self.started - self._counted_requests)
            self._counted_requests = self.started

    def may_hedge(self, now: float) -> bool:
        """Withdraw a hedge from the retry budget. False if that would leave less than half of the budget to retries."""
        self.record_requests(now)
        return self.budget.withdraw(now, 0.5)

    def may_retry(self, now: float) -> bool:
        """Withdraw a retry from the retry budget. False if the budget is exhausted."""
        self.record_requests(now)
        return self.budget.withdraw(now)


def _report_to_none(event: str, service: str, instance: str) -> None:
    """Ignore a report: there is no health monitor."""
