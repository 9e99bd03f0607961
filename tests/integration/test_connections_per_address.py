"""``limits.connections_per_address`` over real sockets."""

from __future__ import annotations

from passerelle.config import load_text
from tests.support.gateways import Rig, Running
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until


def limited(rig: Rig, most: int, **top: object) -> Running:
    limits = {"connections_per_address": most}
    return rig.forward(rig.upstream(answering(ok())), route={}, limits=limits, **top)


def test_one_more_than_allowed_is_refused_until_one_has_gone(rig: Rig) -> None:
    gateway = limited(rig, 2)
    first, second = rig.connect(gateway), rig.connect(gateway)
    assert [first.request().status, second.request().status] == [200, 200]
    refused = rig.connect(gateway).read_response()
    assert (refused.status, refused.get("connection")) == (429, b"close")
    assert [first.request().status, second.request().status] == [200, 200]
    first.close()
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 1)
    assert rig.connect(gateway).request().status == 200
    assert rig.connect(gateway).read_response().status == 429


def test_a_trusted_proxy_is_not_one_client(rig: Rig) -> None:
    gateway = limited(rig, 1, trusted_proxies=["127.0.0.1"])
    clients = [rig.connect(gateway) for _ in range(3)]
    assert [client.request().status for client in clients] == [200] * 3


def test_a_reload_counts_open_connections(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.forward(upstream, route={})
    client = rig.connect(gateway)
    assert client.request().status == 200
    text = (
        "limits: {connections_per_address: 1}\naccess_log: off\n"
        f"services: {{u: {{targets: ['{upstream.url}']}}}}\nroutes: [{{path: '/{{rest*}}', service: u}}]\n"
    )
    rig.loop.call(lambda: gateway.gateway.reload(load_text(text)))
    assert rig.connect(gateway).read_response().status == 429
    assert client.request().status == 200
    client.close()
    wait_until(lambda: gateway.snapshot()["connections"]["open"] == 0)
    assert rig.connect(gateway).request().status == 200
