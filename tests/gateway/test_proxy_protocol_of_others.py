"""The PROXY protocol beside HAProxy and nginx: headers that HAProxy sends, and headers that all three receive."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from passerelle.system import ports
from tests.gateway.test_listeners import listening
from tests.http1.server.test_proxy_protocol import HEADERS, REFUSED
from tests.requirements import needs, program
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.wire import DEADLINE, Closed, wait_until

FILE = """
global
    log stdout format raw daemon
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
"""
SECTION = """
listen l{port}
    bind 127.0.0.1:{port}
    server gateway {address} source 127.0.0.2 {options}
"""


RECEIVER = """
listen receiver
    mode http
    bind 127.0.0.1:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string %[src]
"""
NGINX = """
daemon off;
pid {folder}/pid;
error_log /dev/null;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        location / {{ return 200 $proxy_protocol_addr; }}
    }}
}}
"""


@contextmanager
def haproxy(folder: Path, sections: str, port: int) -> Iterator[None]:
    file = folder / "haproxy.cfg"
    file.write_text(FILE + sections)
    with running(folder / "log", port, program("haproxy"), "-db", "-f", os.fspath(file)):
        yield


@contextmanager
def running(log: Path, port: int, *words: str) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file)
        try:
            wait_until(lambda: accepts(port), "connections are accepted", 4 * DEADLINE)
            yield
        finally:
            process.terminate()
            process.wait()


def received(port: int, header: bytes) -> str | None:
    """Return the body of the response to a request behind ``header``; None if the connection is closed instead."""
    with Client(port) as client:
        try:
            client.send(header + b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
            return client.read_response().body.decode()
        except (Closed, OSError):
            return None


def accepts(port: int) -> bool:
    try:
        Client(port).close()
    except OSError:
        return False
    return True


def canonical(text: str) -> str:
    """Return an address in the form that the gateway has it in."""
    address = ip_address(text)
    return str((address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address)


@needs("haproxy")
def test_the_client_of_haproxy_is_the_client(rig: Rig, tmp_path: Path) -> None:
    one, two, plain = (ports.free() for _ in range(3))
    with listening(rig, {"address": "127.0.0.1:0", "proxy_protocol": "127.0.0.2"}) as gateway:
        options = {one: "send-proxy", two: "send-proxy-v2-ssl-cn", plain: ""}
        sections = "".join(
            SECTION.format(port=port, address=gateway.listeners.addresses[0], options=words)
            for port, words in options.items()
        )
        probes = "check inter 50ms check-send-proxy send-proxy-v2 backup"  # a header without a client (LOCAL)
        sections += f"    server probed {gateway.listeners.addresses[0]} source 127.0.0.2 {probes}\n"
        with haproxy(tmp_path, sections, one):
            listener = gateway.gateway._listener
            for port in (one, two):
                with Client(port) as client:
                    assert client.request().status == 200
                    assert client.request().status == 200
            before = listener.accepted
            wait_until(lambda: listener.accepted > before + 3, "HAProxy probes the gateway")
            assert "DOWN" not in (tmp_path / "log").read_text()
            assert not rig.log.records, "no probe is reported as refused"
            with Client(plain) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
                assert client.rest_or_response() == 0
        assert gateway.forwarded_for == [b"127.0.0.1"] * 4


@needs("haproxy", "nginx")
def test_headers_are_refused_that_haproxy_and_nginx_refuse_and_have_the_same_client(rig: Rig, tmp_path: Path) -> None:
    one, two = ports.free(), ports.free()
    file = tmp_path / "nginx.conf"
    file.write_text(NGINX.format(folder=tmp_path, port=two))
    nginx = program("nginx"), "-p", os.fspath(tmp_path), "-e", "stderr", "-c", os.fspath(file)
    accepted = 0
    with (
        listening(rig, {"address": "127.0.0.1:0", "proxy_protocol": "127.0.0.1"}) as gateway,
        haproxy(tmp_path, RECEIVER.format(port=one), one),
        running(tmp_path / "nginx.log", two, *nginx),
    ):
        own = int(gateway.listeners.addresses[0].rpartition(":")[2])
        for header in [*(data for data, _ in HEADERS), *REFUSED]:
            before = len(gateway.upstream.requests)
            is_accepted = received(own, header) is not None
            others = [client for port in (one, two) if (client := received(port, header)) is not None]
            assert not is_accepted or others, header
            client = gateway.forwarded_for[-1] if len(gateway.upstream.requests) > before else None
            if is_accepted and len(others) == 2 and all(others):
                assert client is not None
                assert {canonical(text) for text in others} == {client.decode()}, header
                accepted += 1
    assert accepted >= 4
