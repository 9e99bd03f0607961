"""The hedge of one request without a gateway: its delay, its attempt, and its outcome."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from passerelle.balancing.instance import Instance
from passerelle.balancing.policies import RoundRobin
from passerelle.errors import Failure, Kind
from passerelle.http1.head import ResponseHead
from passerelle.observability.metrics import ServiceMetrics
from passerelle.resilience.hedge_delay import HedgeDelay
from passerelle.resilience.retry_budget import RetryBudget
from passerelle.upstream.hedge import Hedge, PoolWaiter, is_hedgeable
from passerelle.upstream.service import RetryRules, Service


class Connection:
    """A connection that records what is done with it."""

    def __init__(self, *, readable: bool = False) -> None:
        self.log: list[str] = []
        self.pool = self
        self._readable = readable

    def poll(self, timeout: int) -> bool:
        return self._readable

    def send(self, receiver: object, message: bytes, complete: bool) -> None:
        self.log.append(f"sent {message.decode()}")

    def abort(self) -> None:
        self.log.append("aborted")

    def detach(self) -> None:
        self.log.append("detached")

    def release(self, connection: Connection) -> None:
        self.log.append("returned")


class Pool:
    """A pool with the given idle connections, which records its waiters."""

    def __init__(self, *idle: Connection) -> None:
        self._idle = list(idle)
        self.waiters: list[Any] = []

    def checkout(self) -> Connection | None:
        return self._idle.pop() if self._idle else None

    def request(self, waiter: Any) -> None:
        self.waiters.append(waiter)

    def withdraw(self, waiter: Any) -> bool:
        self.waiters.remove(waiter)
        return True


class Request:
    """A request that records what happens to its hedge."""

    method = b"GET"

    def __init__(self) -> None:
        self.events: list[str] = []

    def message_for(self, instance: Instance) -> bytes:
        return b"head"

    def launch_hedge(self) -> None:
        self.events.append("launch")

    def on_hedge_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        self.events.append(f"response {head.status}")

    def on_hedge_error(self, status: int) -> None:
        self.events.append(f"error {status}")

    def on_hedge_failure(self, failure: Failure) -> None:
        self.events.append(f"failure {failure.kind.name}")


class Response:
    """The part of the head of a response that a hedge reads."""

    def __init__(self, status: int) -> None:
        self.status = status


def response(status: int) -> ResponseHead:
    return cast(ResponseHead, Response(status))


def connection(fake: Connection) -> Any:
    return fake


class Reports(list[tuple[str, str, str]]):
    def add(self, event: str, service: str, instance: str) -> None:
        self.append((event, service, instance))


def service(pool: Pool, floor: float = 100.0) -> tuple[Service, Instance]:
    instance = Instance("b", endpoint=pool)
    of = Service("s", RoundRobin([instance]), ServiceMetrics("s", lambda: 0))
    of.budget = RetryBudget(floor=floor)
    return of, instance


def started(pool: Pool) -> tuple[Hedge, Request, Service, Instance]:
    of, instance = service(pool)
    hedge, request = Hedge(HedgeDelay(0.01), of), Request()
    hedge.start(request, instance)
    return hedge, request, of, instance


@pytest.mark.parametrize(
    ("method", "message", "methods", "hedgeable"),
    [
        (b"GET", b"GET / HTTP/1.1\r\n\r\n", {b"GET"}, True),
        (b"HEAD", b"HEAD / HTTP/1.1\r\n\r\n", {b"GET", b"HEAD"}, True),
        (b"PUT", b"PUT / HTTP/1.1\r\n\r\n", {b"GET", b"PUT"}, False),
        (b"GET", b"GET / HTTP/1.1\r\n\r\n", {b"HEAD"}, False),
        (b"GET", b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", {b"GET"}, False),
    ],
)
def test_only_reads_that_may_be_retried_are_hedged(
    method: bytes, message: bytes, methods: set[bytes], hedgeable: bool
) -> None:
    of, _ = service(Pool())
    of.retries = RetryRules(methods=frozenset(methods))
    assert is_hedgeable(method, message, of) is hedgeable


def test_the_hedge_is_launched_after_its_delay() -> None:
    async def run() -> list[str]:
        request = Request()
        hedge = Hedge(HedgeDelay(0.001), service(Pool())[0])
        hedge.schedule(request)
        async with asyncio.timeout(30):
            while not request.events:
                await asyncio.sleep(0)
        return request.events

    assert asyncio.run(run()) == ["launch"]


def test_a_stopped_or_unknown_delay_launches_nothing() -> None:
    async def run() -> list[str]:
        request, other = Request(), Request()
        stopped = Hedge(HedgeDelay(0.001), service(Pool())[0])
        stopped.schedule(request)
        stopped.disarm()
        unknown = Hedge(HedgeDelay(percentile=90), service(Pool())[0])
        unknown.schedule(request)
        last = Hedge(HedgeDelay(0.002), service(Pool())[0])
        last.schedule(other)
        async with asyncio.timeout(30):
            while not other.events:
                await asyncio.sleep(0)
        return request.events

    assert asyncio.run(run()) == []


def test_the_retry_budget_pays_and_a_refusal_is_counted() -> None:
    rich, _ = service(Pool())
    assert Hedge(HedgeDelay(1.0), rich).withdraw_budget()
    assert rich.metrics.hedges == {}
    poor, _ = service(Pool(), floor=0.0)
    assert not Hedge(HedgeDelay(1.0), poor).withdraw_budget()
    assert poor.metrics.hedges == {"unaffordable": 1}


def test_an_idle_connection_is_used_at_once() -> None:
    idle = Connection()
    hedge, request, _, instance = started(Pool(idle))
    assert hedge.attempt is not None
    assert (idle.log, request.events, instance.in_flight) == (["sent head"], [], 1)


def test_a_connection_is_waited_for() -> None:
    pool = Pool()
    _, request, _, _ = started(pool)
    made, dead = Connection(), Connection(readable=True)
    pool.waiters[0].on_connection(connection(made))
    assert (made.log, request.events) == (["sent head"], [])
    _, request, _, _ = started(pool)
    pool.waiters[1].on_connection(connection(dead))
    assert (dead.log, request.events) == (["aborted"], ["failure UPSTREAM_CLOSED"])


def test_no_connection_is_a_failure() -> None:
    pool = Pool()
    _, request, _, _ = started(pool)
    pool.waiters[0].on_no_connection(Failure(Kind.CONNECT_FAILED, "refused"))
    assert request.events == ["failure CONNECT_FAILED"]


@pytest.mark.parametrize(
    ("status", "complete", "event", "log"),
    [
        (200, False, "response 200", []),
        (404, True, "response 404", []),
        (500, True, "error 500", []),
        (503, False, "error 503", ["detached"]),
    ],
)
def test_a_response_is_reported(status: int, complete: bool, event: str, log: list[str]) -> None:
    idle = Connection()
    hedge, request, _, _ = started(Pool(idle))
    assert hedge.attempt is not None
    hedge.attempt.on_interim(response(103))
    hedge.attempt.on_response(response(status), b"", complete)
    assert request.events == [event]
    assert idle.log == ["sent head", *log]


def test_a_protocol_switch_is_a_failure() -> None:
    idle = Connection()
    hedge, request, _, _ = started(Pool(idle))
    assert hedge.attempt is not None
    hedge.attempt.on_switch(response(101), b"")
    assert request.events == ["failure BAD_RESPONSE"]
    assert idle.log == ["sent head", "detached"]


def test_a_cancelled_hedge_is_no_failure_of_its_instance() -> None:
    idle = Connection()
    hedge, request, of, instance = started(Pool(idle))
    hedge.cancel("lost")
    hedge.cancel("cancelled")  # there is no attempt left
    assert idle.log == ["sent head", "detached"]
    assert (instance.in_flight, instance.failures, request.events) == (0, 0, [])
    assert (hedge.outcome, of.metrics.hedges) == ("lost", {"lost": 1})


def test_a_cancelled_hedge_leaves_the_queue_of_the_pool() -> None:
    pool = Pool()
    hedge, request, _, instance = started(pool)
    waiter = pool.waiters[0]
    hedge.cancel("cancelled")
    assert (pool.waiters, instance.in_flight) == ([], 0)
    late, dead = Connection(), Connection(readable=True)
    waiter.on_connection(connection(late))
    waiter.on_connection(connection(dead))
    waiter.on_no_connection(Failure(Kind.CONNECT_FAILED, "refused"))
    assert (late.log, dead.log, request.events) == (["returned"], ["aborted"], [])


@pytest.mark.parametrize(("ok", "failures"), [(False, 1), (None, 0)])
def test_a_finished_hedge_releases_its_instance(ok: bool | None, failures: int) -> None:
    hedge, _, of, instance = started(Pool(Connection()))
    reports = Reports()
    of.eject_after, of.report = 1, reports.add
    attempt = hedge.finish("failed")
    assert hedge.attempt is None
    hedge.settle(attempt, ok)
    assert (instance.in_flight, instance.failures, len(reports)) == (0, failures, failures)
    with pytest.raises(RuntimeError):
        hedge.finish("failed")


def test_the_owner_of_a_waiter_can_change() -> None:
    """The request takes the place of its hedge while that waits for a connection."""
    first, second = Owner(), Owner()
    waiter = PoolWaiter(first)
    waiter.owner = second
    waiter.on_connection(connection(Connection()))
    assert (first.connections, second.connections) == (0, 1)
    assert waiter.owner is None


class Owner:
    def __init__(self) -> None:
        self.connections = 0

    def client_key(self) -> bytes | None:
        return None

    def on_connection(self, connection: Any) -> None:
        self.connections += 1

    def on_no_connection(self, failure: Failure) -> None:
        raise AssertionError(failure)
