"""HAProxy in front of gateways: requests and responses pass unchanged, and a gateway that ends costs no request."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import trustme
import yaml

from passerelle.config.models.addresses import Address
from passerelle.export import haproxy
from passerelle.export.checkers import HAPROXY
from passerelle.export.deployment import Deployment
from passerelle.system import ports
from tests.conformance.conftest import loop, rig
from tests.examples.conftest import Applications, applications
from tests.examples.test_behind_gateway import NAMES, serving
from tests.export.serving import EXAMPLES, deployment_of, lost
from tests.export.test_shop import PATHS, send
from tests.requirements import needs, program
from tests.support.client import Client
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import DEADLINE, Response, wait_until

__all__ = ["applications", "loop", "rig"]

ROUTES = [{"path": "/{rest*}", "service": "u", "encoded_slashes": "keep"}]
TARGETS = {"u": {"targets": ["http://127.0.0.1:5000"]}}


def exported(deployment: Deployment, *gateways: Address, port: int = 8081) -> tuple[list[str], list[str]]:
    """Return the lines of the export without their indentation, and the lost keys."""
    text, losses = haproxy.export(deployment, gateways, Address(host="127.0.0.1", port=port))
    return [line.strip() for line in text.splitlines()], lost(deployment, losses)


def test_a_gateway_that_expects_the_proxy_protocol_receives_it() -> None:
    listen = [{"address": "127.0.0.1:8080", "https_redirect": 308, "https_port": 443}]
    listen += [{"address": "127.0.0.1:8081", "proxy_protocol": "10.0.0.0/8"}]
    lines, losses = exported(deployment_of(TARGETS, ROUTES, listen=listen))
    (server,) = [line for line in lines if line.startswith("server ")]
    assert server.startswith("server gateway1 127.0.0.1:8081 ") and " send-proxy-v2 check-send-proxy check " in server
    assert losses == ["listen[0].https_redirect"]


def test_an_address_that_systemd_has_is_lost_unless_it_is_given() -> None:
    model = deployment_of(TARGETS, ROUTES, listen=["systemd:web", "127.0.0.1:8081"])
    assert exported(model)[1] == ["listen[0]"]
    lines, losses = exported(model, Address(host="10.0.0.7", port=443))
    assert losses == [] and not [line for line in lines if "systemd" in line]


class HAProxy:
    """HAProxy in front of gateways, with an exported configuration."""

    def __init__(self, deployment: Deployment, folder: Path, *gateways: Running) -> None:
        self.port = ports.free()
        addresses = [Address(host="127.0.0.1", port=gateway.port) for gateway in gateways]
        text, _ = haproxy.export(deployment, addresses, Address(host="127.0.0.1", port=self.port))
        file = folder / "haproxy.cfg"
        file.write_text(text)
        self._log = (folder / "log").open("wb")
        command = [program("haproxy"), "-db", "-f", os.fspath(file)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def __enter__(self) -> HAProxy:
        wait_until(self._accepts, "HAProxy accepts connections", 4 * DEADLINE)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)
        self._log.close()

    def _accepts(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        with socket.socket() as found:
            return found.connect_ex(("127.0.0.1", self.port)) == 0

    def request(self, method: str, target: str, *fields: tuple[str, str], body: bytes | None = None) -> Response:
        with Client(self.port) as client:
            return client.request(method, target, *fields, body=body)


@needs("haproxy")
class TestServing:
    @pytest.fixture
    def shop(self, rig: Rig, applications: Applications, tmp_path: Path) -> Iterator[tuple[int, int]]:
        """Serve the shop by two gateways behind HAProxy; return the ports of a gateway and of HAProxy."""
        routes = yaml.safe_load((EXAMPLES / "shop" / "gateway.yaml").read_text())["routes"]
        with ExitStack() as stack:
            services = {}
            for service, name in NAMES.items():
                client = applications.client(name, "sqlite", lambda name=name: f"sqlite:///{tmp_path / name}.db")
                services[service] = {"targets": [stack.enter_context(serving(client.application))]}
            gateways = [rig.gateway(services, routes) for _ in range(2)]
            proxy = stack.enter_context(HAProxy(deployment_of(services, routes), tmp_path, *gateways))
            for number in range(1, 4):
                send(proxy.port, "POST", "/user", {"username": f"u{number}", "email": f"u{number}@example.com"})
                send(proxy.port, "POST", "/product", {"name": f"Thé {number}", "price": number + 0.5})
            yield gateways[0].port, proxy.port

    def test_the_shop_responds_as_without_it(self, shop: tuple[int, int]) -> None:
        gateway, proxy = shop
        for path in (*PATHS[:24], "/api/1/1", "/api/1/99"):
            for method in ("GET", "OPTIONS"):
                found, expected = send(proxy, method, path), send(gateway, method, path)
                if expected[0] < 400:
                    assert found == expected, (method, path)
                else:
                    assert (found[0], found[2][0]) == (expected[0], expected[2][0]), (method, path)

    def test_no_request_fails_while_one_of_two_gateways_ends(self, rig: Rig, tmp_path: Path) -> None:
        services = {"u": {"targets": [rig.upstream(answering(ok(b"fine"))).url]}}
        gateways = [rig.gateway(services, ROUTES) for _ in range(2)]
        with HAProxy(deployment_of(TARGETS, ROUTES), tmp_path, *gateways) as proxy:
            bodies = [proxy.request("GET", "/").body for _ in range(20)]
            gateways[0].stop(1.0)
            bodies += [proxy.request("GET", "/").body for _ in range(20)]
        assert bodies == [b"fine"] * 40

    def test_requests_arrive_as_the_client_sent_them(self, rig: Rig, tmp_path: Path) -> None:
        upstream = rig.upstream(answering(ok()))
        gateway = rig.gateway({"u": {"targets": [upstream.url]}}, ROUTES, trusted_proxies=["127.0.0.1"])
        targets = ["/a%2Fb", "/a%20b?x=%2F//", "/%C3%A9", "/a;b=c"]
        forged = {
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Prefix": "/evil",
            "X-Request-Id": "evil",
        }
        with HAProxy(deployment_of(TARGETS, ROUTES), tmp_path, gateway) as proxy:
            for target in targets:
                assert proxy.request("POST", target, *forged.items(), body=b"x" * 100_000).status == 200
        assert [request.target.decode() for request in upstream.requests] == targets
        received = upstream.requests[0]
        assert len(received.body) == 100_000
        assert [received.all(name) for name in forged][:3] == [[b"gw"], [b"http"], []]
        assert b"evil" not in received.raw

    def test_a_stream_is_not_held_back(self, rig: Rig, tmp_path: Path) -> None:
        def streaming(conn: Connection) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            conn.read_request()  # until the connection is closed

        gateway = rig.gateway({"u": {"targets": [rig.upstream(streaming).url]}}, ROUTES)
        with HAProxy(deployment_of(TARGETS, ROUTES), tmp_path, gateway) as proxy, Client(proxy.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
            assert b"first" in client.until(b"first\r\n")

    @pytest.mark.parametrize("name", ["plain", 'it\'s a "b" $HOME #x \\ é'])
    def test_it_accepts_certificates_with_any_name(self, tmp_path: Path, name: str) -> None:
        certificate, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        issued = trustme.CA().issue_cert("a.example")
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        tls = {"certificate": os.fspath(certificate), "key": os.fspath(key), "minimum": "1.3"}
        text, _ = haproxy.export(deployment_of(TARGETS, ROUTES, tls=tls), (), None)
        report = HAPROXY.run(program("haproxy"), "haproxy.cfg", text)
        assert report is None, report


def test_it_probes_the_readiness_page_if_it_can_reach_it() -> None:
    def server(admin: Any) -> str:
        lines, _ = exported(deployment_of(TARGETS, ROUTES, admin=admin), Address(host="10.0.0.1", port=8080))
        assert ("http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost" in lines) == (
            "port" in lines[-1]
        )
        return lines[-1]

    token = {"token": "0123456789abcdef"}
    assert server({"listen": "0.0.0.0:9901", **token}).endswith("check inter 2s fall 2 rise 1 port 9901")
    for admin in ("off", "127.0.0.1:9900", {"listen": "0.0.0.0:9901", "open": ["metrics"], **token}):
        assert server(admin).endswith("check inter 2s fall 2 rise 1")


def test_limits_and_waits_are_those_of_the_file() -> None:
    routes = [{**ROUTES[0], "timeout": "2h", "tunnel_idle_timeout": "off"}]
    limits = {"head": "64KiB", "headers": 500, "connections": 7, "head_timeout": "1500ms", "idle_timeout": "9s"}
    deployment = deployment_of(TARGETS, routes, limits=limits, workers=2)
    lines, _ = exported(deployment, Address(host="10.0.0.1", port=1), Address(host="::1", port=2))
    assert {
        *("maxconn 28", "tune.bufsize 67584", "tune.http.maxhdr 510", "timeout http-request 1500ms"),
        *("timeout http-keep-alive 9000ms", "timeout server 7205000ms", "timeout tunnel 86405000ms"),
    } <= set(lines)
    assert lines[-1].startswith("server gateway2 [::1]:2 maxconn 14 ")


def test_tls_ends_at_haproxy_and_what_that_loses_is_listed() -> None:
    tls = {"certificate": "tls/c.pem", "key": "k.pem", "client_ca": "ca.pem"}
    lines, losses = exported(deployment_of(TARGETS, [{**ROUTES[0], "auth": ["mtls"]}], tls=tls))
    assert losses == ["tls", "tls.key", "tls.client_ca"]
    assert "bind 127.0.0.1:8081 ssl crt '/etc/passerelle/tls/c.pem' ssl-min-ver TLSv1.2 alpn http/1.1" in lines
    for key in ("tls/c.pem", "tls/c.pem.key"):
        assert exported(deployment_of(TARGETS, ROUTES, tls={"certificate": "tls/c.pem", "key": key}))[1] == ["tls"]


@pytest.mark.parametrize(
    ("route", "service", "key"),
    [
        ({"clients": {"allow": ["10.0.0.0/8"]}}, {}, "routes[0].clients"),
        ({"rate_limit": [{"rate": "3/m"}]}, {}, "routes[0].rate_limit[0]"),
        ({}, {"balance": {"policy": "hash", "by": "address"}}, "services.u.balance.by"),
    ],
)
def test_keys_that_use_the_address_of_the_client_need_trusted_proxies(
    route: dict[str, Any], service: dict[str, Any], key: str
) -> None:
    services, routes = {"u": {**TARGETS["u"], **service}}, [{**ROUTES[0], **route}]
    assert exported(deployment_of(services, routes))[1] == [key]
    assert exported(deployment_of(services, routes, trusted_proxies=["10.0.0.1"]))[1] == []
