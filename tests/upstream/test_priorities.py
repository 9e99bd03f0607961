"""Instances with priorities (SRV records): the next tier takes requests when no instance of the first one is up."""

from __future__ import annotations

from typing import Any

from passerelle.gateway.gateway import InstanceSpec
from tests.support.client import Client
from tests.support.gateways import Rig, Running, settle
from tests.support.upstream import Upstream, answering, ok

SECRET = "0123456789abcdef"


def found(rig: Rig, *tiers: int, **service: Any) -> tuple[Running, list[Upstream]]:
    """Return a gateway with targets from DNS, and an instance for each of ``tiers`` that responds with its number."""
    ups = [rig.upstream(answering(ok(b"%d" % number))) for number in range(len(tiers))]
    services = {"u": {"targets": ["dns+http://_http._tcp.shop.test"], "slow_start": "off", **service}}
    gateway = rig.gateway(services, [{"path": "/{rest*}", "service": "u"}])
    set_instances(rig, gateway, [spec(up, tier) for up, tier in zip(ups, tiers, strict=True)])
    return gateway, ups


def spec(upstream: Upstream, tier: int, status: str = "UP") -> InstanceSpec:
    return InstanceSpec(f"u-{upstream.port}", "127.0.0.1", upstream.port, status=status, tier=tier)


def set_instances(rig: Rig, gateway: Running, specs: list[InstanceSpec]) -> None:
    rig.loop.call(lambda: gateway.gateway.report_health_to(lambda event, service, instance: None))
    rig.loop.call(lambda: gateway.gateway.set_instances("u", specs))


def bodies(client: Client, number: int = 20) -> set[bytes]:
    return {client.request(within=20).body for _ in range(number)}


def test_the_second_priority_waits_for_the_first_to_be_down(rig: Rig) -> None:
    gateway, ups = found(rig, 0, 0, 1)
    client = rig.connect(gateway)
    assert bodies(client) == {b"0", b"1"}
    set_instances(rig, gateway, [spec(ups[0], 0, "DOWN"), spec(ups[1], 0), spec(ups[2], 1)])
    assert bodies(client) == {b"1"}
    set_instances(rig, gateway, [spec(ups[0], 0, "DOWN"), spec(ups[1], 0, "EJECTED"), spec(ups[2], 1)])
    assert bodies(client) == {b"2"}
    set_instances(rig, gateway, [spec(ups[0], 0), spec(ups[1], 0), spec(ups[2], 1)])
    assert bodies(client) == {b"0", b"1"}
    settle(gateway, 20)


def test_an_instance_changes_its_priority(rig: Rig) -> None:
    gateway, ups = found(rig, 0, 1)
    client = rig.connect(gateway)
    assert bodies(client) == {b"0"}
    set_instances(rig, gateway, [spec(ups[0], 1), spec(ups[1], 0)])
    assert bodies(client) == {b"1"}
    settle(gateway, 20)


def test_requests_that_the_first_priority_refuses_go_to_the_second(rig: Rig) -> None:
    gateway, ups = found(rig, 0, 1, eject="off")
    ups[0].refuse()
    client = rig.connect(gateway)
    assert bodies(client, 5) == {b"1"}
    settle(gateway, 20)


def test_a_client_stays_at_its_instance_of_the_second_priority_while_that_is_up(rig: Rig) -> None:
    sticky = {"sticky": {"cookie": "kept", "secret": SECRET}}
    gateway, ups = found(rig, 0, 1, balance=sticky)
    set_instances(rig, gateway, [spec(ups[0], 0, "DOWN"), spec(ups[1], 1)])
    client = rig.connect(gateway)
    first = client.request()
    cookie = (first.get("set-cookie") or b"").partition(b";")[0].decode()
    assert first.body == b"1" and cookie
    set_instances(rig, gateway, [spec(ups[0], 0), spec(ups[1], 1)])
    assert client.request("GET", "/", ("Cookie", cookie)).body == b"1"
    assert client.request().body == b"0"
    settle(gateway, 20)


def test_a_reload_keeps_priorities(rig: Rig) -> None:
    gateway, ups = found(rig, 0, 1)
    specs = [spec(ups[0], 0), spec(ups[1], 1)]
    services = {"u": {"targets": ["dns+http://_http._tcp.shop.test"], "balance": "least_inflight"}}
    routes = [{"path": "/{rest*}", "service": "u"}]
    gateway.reload(services, routes)
    set_instances(rig, gateway, specs)
    assert bodies(rig.connect(gateway)) == {b"0"}
    settle(gateway, 20)
