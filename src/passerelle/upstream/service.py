"""A service as the gateway uses it: its node, its instances with their pools, its counters, what it lets be retried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from passerelle.balancing.health import suspicious
from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import Node
from passerelle.balancing.sticky import Sticky
from passerelle.http.messages import IDEMPOTENT_METHODS
from passerelle.http1.head import RequestHead
from passerelle.observability.metrics import ServiceMetrics
from passerelle.resilience.circuit_breaker import Breaker
from passerelle.resilience.retry_budget import RetryBudget

if TYPE_CHECKING:
    from passerelle.upstream.concurrency_limiter import Limiter
    from passerelle.upstream.request import Forward


"""What instances go to."""


# The key of a request, from its head, its route's parameters and the client's address; None where it has none.
KeyOf = Callable[[RequestHead, Mapping[str, bytes], bytes], bytes | None]


class RetryRules(NamedTuple):
    """What may be sent again after it was sent, after which answers, and how soon (seconds)."""

    methods: frozenset[bytes] = IDEMPOTENT_METHODS
    statuses: frozenset[int] = frozenset()
    base: float = 0.025
    most: float = 1.0


class StickyCookie(NamedTuple):
    """The cookie that keeps a client at its instance."""

    name: bytes
    node: Sticky


class Service:
    """``node`` picks; every instance's ``endpoint`` is a :class:`Pool`. ``streaming`` are the answers under way.

    ``started`` counts requests for the retry budget: a plain addition a request, read only when a retry is wanted.
    It stays the same object over reloads; what it refers to is replaced.
    """

    __slots__ = (
        "_counted",
        "_crowded",
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
        "watched",
    )

    def __init__(self, name: str, node: Node, metrics: ServiceMetrics) -> None:
        self.name = name
        self.node = node
        self.metrics = metrics
        self.streaming: set[Forward] = set()
        self.breaker: Breaker | None = None
        self.limiter: Limiter | None = None
        self.budget = RetryBudget()
        self.retries = RetryRules()
        self.key: KeyOf | None = None
        self.cookie: StickyCookie | None = None
        self.eject_after = 0  # failures in a row; 0 is never
        self.report: Callable[[str, str, str], None] = _nobody  # event, service, instance
        self.watched = False  # somebody tells which instances are gone
        self.started = 0
        self._counted = 0  # of `started`, in the budget
        self._crowded = -inf  # when that was last told

    def breaker_state(self) -> str | None:
        """The name of its circuit breaker's state; None without one."""
        return self.breaker.state.value if self.breaker is not None else None

    def concurrency(self) -> dict[str, int] | None:
        """Its adaptive limit, and how many run under it and wait for it; None without one."""
        return self.limiter.told() if self.limiter is not None else None

    def told(self) -> dict[str, Any]:
        """What is known of it beside its instances, as JSON-able values."""
        return {"breaker": self.breaker_state(), "concurrency": self.concurrency()}

    def failed(self, instance: Instance) -> None:
        """A failure of ``instance`` was just counted."""
        if self.eject_after and suspicious(instance, self.eject_after):
            self.report("misbehaved", self.name, instance.identity)

    def crowded(self) -> None:
        """A request was refused because its instance is full. Told once a second: there may be thousands."""
        now = perf_counter()
        if now - self._crowded >= 1.0:
            self._crowded = now
            self.report("crowded", self.name, "")

    def count(self, now: float) -> None:
        """Let the budget know of the requests since the last time (``now`` in seconds)."""
        if self.started != self._counted:
            self.budget.request(now, self.started - self._counted)
            self._counted = self.started

    def may_hedge(self, now: float) -> bool:
        """Take a hedge out of the budget; False when that would leave less than half of it to retries."""
        self.count(now)
        return self.budget.withdraw(now, 0.5)

    def may_retry(self, now: float) -> bool:
        """Take a retry out of the budget; False when there is none left."""
        self.count(now)
        return self.budget.withdraw(now)


def _nobody(event: str, service: str, instance: str) -> None:
    """Nobody decides about health."""
