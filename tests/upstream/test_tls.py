"""TLS to instances: certificates are verified, and nothing is sent to an instance that fails verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.gateway.assembly.certificates import ServiceCertificates
from passerelle.supervisor.health_probe import probe
from tests.support.client import head
from tests.support.gateways import Rig, settle
from tests.support.secure import Authority, SecureUpstream, server_context
from tests.support.upstream import Connection, Script, answering, echo, ok
from tests.support.wire import wait_until

LONG = 20.0
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"


class Instances:
    """Makes upstreams with certificates that an authority has signed."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.authority = Authority(folder)

    def upstream(self, script: Script, *names: str, client_ca: Path | None = None) -> SecureUpstream:
        files = self.authority.issue("-".join(names or ("u",)), *(names or ("127.0.0.1",)))
        upstream = SecureUpstream(script, server_context(files, client_ca))
        self.rig.upstreams.append(upstream)
        return upstream

    def tls(self, **settings: Any) -> dict[str, Any]:
        return {"tls": {"ca": str(self.authority.file), **settings}}


@pytest.fixture
def instances(rig: Rig, tmp_path: Path) -> Instances:
    return Instances(rig, tmp_path)


def test_requests_share_a_verified_connection(rig: Rig, instances: Instances) -> None:
    upstream = instances.upstream(echo)
    client = rig.connect(rig.forward(upstream, service=instances.tls()))
    body = bytes(range(256)) * 8_000
    for _ in range(5):
        assert client.request("POST", "/", body=body, within=LONG).body == body
    assert len(upstream.connections) == 1


def test_nothing_is_sent_to_an_instance_with_a_wrong_certificate(
    rig: Rig, instances: Instances, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    log = tmp_path / "access.log"
    wrong_name = instances.upstream(answering(ok()), "elsewhere.example")
    right = instances.upstream(answering(ok()))
    other_authority = str(Authority(tmp_path / "other").file)
    for upstream, service in (
        (wrong_name, instances.tls()),
        (right, {"tls": {"ca": other_authority}}),
        (right, {}),  # the test authority is unknown to the system
    ):
        gateway = rig.forward(upstream, service={**service, "eject": "off"}, access_log=str(log))
        assert rig.connect(gateway).request().status == 502
        gateway.stop()
        assert not upstream.heads
        assert json.loads(log.read_text().splitlines()[-1])["failure"] == "connect_failed"
        assert "certificate not accepted" in log.read_text().splitlines()[-1]
    for upstream, service in (
        (wrong_name, instances.tls(server_name="elsewhere.example")),
        (wrong_name, {"tls": {"verify": False}}),
    ):
        assert rig.connect(rig.forward(upstream, service=service)).request().status == 200


def test_the_gateway_sends_its_own_certificate(rig: Rig, instances: Instances, tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    clients = Authority(tmp_path / "clients")
    certificate, key = clients.issue("gateway", "gateway.example", common_name="gateway")
    upstream = instances.upstream(answering(ok()), client_ca=clients.file)
    own = {"certificate": str(certificate), "key": str(key)}
    assert rig.connect(rig.forward(upstream, service=instances.tls(**own))).request().status == 200
    found = upstream.greeted[-1].getpeercert()
    assert found is not None and (("commonName", "gateway"),) in found["subject"]
    assert rig.connect(rig.forward(upstream, service=instances.tls())).request().status == 502


def test_an_instance_without_tls_fails_and_the_other_one_responds(rig: Rig, instances: Instances) -> None:
    good, plain = instances.upstream(answering(ok())), rig.upstream(lambda conn: conn.close())
    targets = [f"https://127.0.0.1:{plain.port}", good.url]
    service = {"targets": targets, "balance": "round_robin", **instances.tls()}
    client = rig.connect(rig.gateway({"u": service}, [{"path": "/{rest*}", "service": "u"}]))
    assert [client.request().status for _ in range(6)] == [200] * 6


def test_a_body_that_ends_without_close_notify_is_truncated(rig: Rig, instances: Instances) -> None:
    def until_close(conn: Connection) -> None:
        request = conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
        if request.target == b"/ordered":
            conn.sock.unwrap()
        conn.close()

    gateway = rig.forward(instances.upstream(until_close), service=instances.tls())
    assert rig.connect(gateway).request("GET", "/ordered").body == b"whole"
    client = rig.connect(gateway)
    client.send(head("GET", "/cut"))
    assert client.rest(LONG).endswith(b"whole\r\n")  # and no last chunk
    settle(gateway, LONG)


def test_tunnels(rig: Rig, instances: Instances) -> None:
    def tunnel(conn: Connection) -> None:
        conn.read_head()
        conn.send(SWITCH)
        while data := conn.sock.recv(1 << 16):
            conn.send(data)

    upstream = instances.upstream(tunnel)
    gateway = rig.forward(upstream, service=instances.tls())
    client = rig.connect(gateway)
    client.send(head("GET", "/", ("Upgrade", "x"), ("Connection", "Upgrade")))
    assert client.read_response().status == 101
    client.send(b"ping")
    assert client.exactly(4, LONG) == b"ping"
    client.finish()
    settle(gateway, LONG)
    upstream.wait_all_closed(LONG)


def test_certificates_of_a_service_are_reloaded(rig: Rig, instances: Instances, tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    following = Authority(tmp_path / "next")
    upstream = SecureUpstream(answering(ok()), server_context(following.issue("u", "127.0.0.1")))
    rig.upstreams.append(upstream)
    gateway = rig.forward(upstream, service={**instances.tls(), "eject": "off"})
    client = rig.connect(gateway)
    assert client.request().status == 502
    instances.authority.file.write_bytes(following.file.read_bytes())
    wait_until(lambda: client.request().status == 200, "the new authority is trusted", LONG)


def test_probes_use_tls_too(instances: Instances, rig: Rig) -> None:
    def once(conn: Connection) -> None:
        conn.read_request()
        conn.send(ok())
        conn.close()

    upstream = instances.upstream(once)

    def certificates(**tls: Any) -> ServiceCertificates:
        text = {"services": {"u": {"targets": [upstream.url], **tls}}, "routes": [{"path": "/", "service": "u"}]}
        return ServiceCertificates(load_text(json.dumps(text)).services["u"])

    def probed(path: str | None, found: ServiceCertificates) -> str:
        return rig.loop.run(probe("127.0.0.1", upstream.port, path, LONG, found.current()))

    trusted = certificates(**instances.tls())
    assert trusted.current() is trusted.current()
    assert probed("/healthz", trusted) == ""
    assert probed(None, trusted) == ""
    assert probed(None, certificates()).startswith("certificate not accepted: ")
