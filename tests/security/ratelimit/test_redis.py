"""Limits in a real Redis: the arithmetic is that of ``decide``, gateways share them, and an outage fails no request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passerelle.config import inspect_text
from passerelle.security.ratelimit.gcra import Rate, RouteRateLimit, by_consumer, decide
from passerelle.security.ratelimit.redis import DECIDE, HELLO, RedisLimit
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.gateways import Rig, Running
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until

pytestmark = needs("redis-server")
START = 1_700_000_000_000_000
# Redis expires full buckets by its own clock, which continues while the test's time is controlled. The steps are in one
# script, because a key may live for a millisecond and none expires while a script runs.
AT_A_MADE_UP_TIME = (
    "local now = {now}\nlocal function decide()\n"
    + DECIDE.replace("{", "{{").replace("}", "}}")
    + """end
local out = decide()
for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
return out
"""
)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


rates = st.builds(
    lambda count, seconds, burst: Rate(count, seconds * 1_000_000_000, burst),
    st.integers(1, 100_000),
    st.sampled_from([1, 60, 3600, 86400]),
    st.integers(1, 10_000),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rates, min_size=1, max_size=3), st.lists(st.integers(0, 3_000_000), min_size=1, max_size=25), st.data())
def test_the_script_decides_as_the_gateway_does(
    shared_server: RedisServer, given_rates: list[Rate], steps: list[int], data: st.DataObject
) -> None:
    with redis.Redis(port=shared_server.port) as client:
        client.flushall()
        costs = [data.draw(st.integers(1, rate.burst)) for rate in given_rates]
        dry = [data.draw(st.booleans()) for _ in given_rates]
        limits = [
            RedisLimit(RouteRateLimit("x", rate, by_consumer, cost=cost, dry_run=dry), str(index))
            for index, (rate, cost, dry) in enumerate(zip(given_rates, costs, dry, strict=True))
        ]
        keys = [each.key(b"k") for each in limits]
        arguments = [argument for each in limits for argument in each.arguments]
        states = [0] * len(limits)
        now = START
        for step in steps:
            now += step
            answer = client.eval(AT_A_MADE_UP_TIME.format(now=now), len(keys), *keys, *arguments)
            # The same in microseconds: `decide` accepts any unit.
            wanted = [
                decide(Rate(rate.count, rate.period // 1000, rate.burst), state, now, cost)
                for rate, state, cost in zip(given_rates, states, costs, strict=True)
            ]
            for index, (each, decision) in enumerate(zip(limits, wanted, strict=True)):
                found = each.decision(answer[4 * index : 4 * index + 4])
                expected = decision.admitted, decision.left, decision.reset * 1000, decision.retry * 1000
                assert (found.admitted, found.left, found.reset, found.retry) == expected
            if all(d.admitted or dry for d, dry in zip(wanted, dry, strict=True)):
                states = [d.full if d.admitted else s for d, s in zip(wanted, states, strict=True)]


def test_a_clock_that_is_set_back_costs_one_full_bucket_at_most(shared_server: RedisServer) -> None:
    rate = Rate(1, 1_000_000_000, 20)
    limit = RedisLimit(RouteRateLimit("x", rate, by_consumer), "back")
    with redis.Redis(port=shared_server.port) as client:
        client.flushall()

        def decided(now: int):
            return limit.decision(client.eval(AT_A_MADE_UP_TIME.format(now=now), 1, limit.key(b"k"), *limit.arguments))

        for _ in range(20):
            assert decided(START).admitted
        back = START - 3_600_000_000
        refused = decided(back)
        assert not refused.admitted and refused.left == 0
        assert (refused.retry, refused.reset) == (1_000_000_000, 20_000_000_000)
        assert not decided(back + 999_999).admitted
        assert decided(back + 1_000_000).admitted
        assert decided(back + 21_000_000).left == 19


def test_a_gateway_that_a_later_clock_has_seen_is_forgotten(shared_server: RedisServer) -> None:
    with redis.Redis(port=shared_server.port) as client:
        client.flushall()
        for now, name, expected in [(START, "a", 1), (START, "b", 2), (START - 3_600_000_000, "a", 1)]:
            assert client.eval(f"local now = {now}\n" + HELLO, 1, b"gateways", name, 10_000_000) == expected


def gateways(rig: Rig, url: str, limit: object, count: int = 2, **top: object) -> list[Running]:
    upstream = rig.upstream(answering(ok()))
    made = [rig.forward(upstream, route={"rate_limit": limit}, redis=url, **top) for _ in range(count)]
    for gateway in made:
        wait_until(lambda gateway=gateway: link(gateway).up and link(gateway).gateways == count)
    return made


def link(gateway: Running):
    return gateway.gateway._guards._redis


def test_gateways_share_a_limit_and_report_the_same_state(rig: Rig, server: RedisServer) -> None:
    one, other = (rig.connect(g) for g in gateways(rig, server.url, {"rate": "4/h"}))
    first = one.request()
    assert first.get("ratelimit-policy") == b'"4/h by address";q=4;w=3600'
    assert [first.get("ratelimit"), other.request().get("ratelimit")] == [
        b'"4/h by address";r=3;t=900',
        b'"4/h by address";r=2;t=1800',
    ]
    assert [c.request().status for c in (one, other, one, other)] == [200, 200, 429, 429]
    refused = other.request()
    assert 1 <= int(refused.get("retry-after") or b"0") <= 900


def test_preflights_count_in_redis_too(rig: Rig, server: RedisServer) -> None:
    route = {"rate_limit": {"rate": "3/h"}, "cors": {"origins": "*"}}
    upstream = rig.upstream(answering(ok()))
    running = [rig.forward(upstream, route=route, redis=server.url) for _ in range(2)]
    for gateway in running:
        wait_until(lambda gateway=gateway: link(gateway).up, "connected", 20)
    asked = ("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")
    one, other = (rig.connect(gateway) for gateway in running)
    assert one.request("OPTIONS", "/a", *asked).status == 204
    assert other.request("OPTIONS", "/a", *asked).status == 204
    assert one.request("GET", "/a").status == 200
    assert other.request("OPTIONS", "/a", *asked).status == 429
    assert len(upstream.requests) == 1


def test_without_redis_each_admits_its_part_and_what_was_used_up_stays_so(rig: Rig, server: RedisServer) -> None:
    running = gateways(rig, server.url, {"rate": "8/h"})
    one, other = (rig.connect(g) for g in running)
    assert one.request().status == 200
    server.stop()
    for gateway in running:
        wait_until(lambda gateway=gateway: not link(gateway).up)
    # One of the four was used; the other gateway does not know of it.
    assert [one.request().status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert [other.request().status for _ in range(6)] == [200] * 4 + [429] * 2
    server.start()
    for gateway in running:
        wait_until(lambda gateway=gateway: link(gateway).up)
    assert one.request().status == 200


def test_a_redis_that_was_never_reached_counts_as_lost(rig: Rig, server: RedisServer) -> None:
    server.stop()
    upstream = rig.upstream(answering(ok()))
    running = rig.forward(upstream, route={"rate_limit": {"rate": "4/h"}}, redis=server.url, limits={"gateways": 2})
    client = rig.connect(running)
    assert [client.request().status for _ in range(3)] == [200, 200, 429]


def test_a_redis_that_hangs_delays_no_request_for_long(rig: Rig, server: RedisServer) -> None:
    (running,) = gateways(rig, server.url, {"rate": "100/h"}, count=1)
    client = rig.connect(running)
    server.freeze()
    assert [client.request().status for _ in range(5)] == [200] * 5
    assert not link(running).up
    server.thaw()
    wait_until(lambda: link(running).up)


def test_a_script_that_redis_has_forgotten_costs_no_answer(rig: Rig, server: RedisServer) -> None:
    (running,) = gateways(rig, server.url, {"rate": "100/h"}, count=1)
    with redis.Redis(port=server.port) as client:
        client.script_flush()
    client = rig.connect(running)
    assert client.request().status == 200
    wait_until(lambda: link(running).up and b";r=" in (client.request().get("ratelimit") or b""))


def test_a_reload_keeps_the_connection_and_what_was_counted(rig: Rig, server: RedisServer) -> None:
    upstream = rig.upstream(answering(ok()))
    route = {"path": "/{rest*}", "service": "u", "rate_limit": {"rate": "2/h"}}
    services = {"u": {"targets": [upstream.url]}}
    running = rig.gateway(services, [route], redis=server.url)
    wait_until(lambda: link(running).up)
    before, client = link(running), rig.connect(running)
    assert client.request().status == 200
    running.reload(services, [{**route, "timeout": "9s"}], redis=server.url)
    assert link(running) is before and before.up
    assert [client.request().status for _ in range(2)] == [200, 429]
    running.reload(services, [{"path": "/{rest*}", "service": "u"}], redis=server.url)
    assert link(running) is None and not before.up
    assert client.request().status == 200


@pytest.mark.slow
def test_under_ten_times_the_limit_nothing_fails_when_redis_is_killed(rig: Rig, server: RedisServer) -> None:
    running = gateways(rig, server.url, {"rate": "100/s"})
    statuses: list[int] = []
    begun = time.monotonic()
    end = begun + 3

    def ask(gateway: Running) -> None:
        client = rig.connect(gateway)
        while time.monotonic() < end:
            statuses.append(client.request().status)
            time.sleep(0.002)  # ten times the limit, not the machine's maximum

    threads = [threading.Thread(target=ask, args=(gateway,)) for gateway in running]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(statuses) > 200)
    server.stop()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) <= 1.5 * (100 + 100 * seconds)


def test_a_redis_that_nothing_uses_is_reported() -> None:
    text = (
        "redis: redis://127.0.0.1:6379/0\nlimits: {gateways: 2}\n"
        "services: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: u}]\n"
    )
    found = [(problem.line, problem.key) for problem in inspect_text(text, environ={}).warnings]
    assert found == [(1, "redis"), (2, "limits.gateways")]
