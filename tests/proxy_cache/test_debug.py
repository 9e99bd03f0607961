"""A local client that requests the name of the instance receives the response of an instance, never a stored one."""

from __future__ import annotations

from tests.support.client import head
from tests.support.gateways import Rig
from tests.support.upstream import answering

COMPOSED = {
    "path": "/api/{a}",
    "compose": {"part": {"service": "up", "path": "/{a}", "cache": {"ttl": "30s"}}},
}


def test_debug_bypasses_the_cache(rig: Rig) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    upstream = rig.upstream(answering(answer))
    routes = [{"path": "/{a}", "service": "up", "cache": {"ttl": "30s"}}, COMPOSED]
    client = rig.connect(rig.gateway({"up": {"targets": [upstream.url]}}, routes))
    for path in ("/one", "/api/two"):
        for fields, told in (((), False), ((), False), ((("Passerelle-Debug", "1"),), True)):
            client.send(head("GET", path, *fields))
            assert bool(client.read_response().all("passerelle-instance")) is told
    assert [r.target for r in upstream.requests] == [b"/one", b"/one", b"/two", b"/two"]
