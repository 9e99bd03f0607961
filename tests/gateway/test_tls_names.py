"""Several certificates at the listener, selected by the server name of the client (SNI)."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import Rig, Running, settle
from tests.support.secure import Authority, SecureClient
from tests.support.upstream import answering, ok
from tests.support.wire import Closed, wait_until

LONG = 30.0


class Named:
    """A gateway with one certificate for each of several names."""

    def __init__(self, rig: Rig, folder: Path, **tls: Any) -> None:
        self.rig = rig
        self.authority = Authority(folder)
        self.files = {
            stem: self.authority.issue(stem, *names)
            for stem, names in {
                "default": ("localhost", "other.test"),
                "shop": ("shop.test",),
                "partners": ("*.partners.test", "partners.test"),
                "vip": ("vip.partners.test",),
            }.items()
        }
        chosen = {"shop": ["shop.test"], "partners": ["*.partners.test", "PARTNERS.test"], "vip": ["vip.partners.test"]}
        self.settings = {
            **self.pair("default"),
            "certificates": [{"names": names, **self.pair(stem)} for stem, names in chosen.items()],
            **tls,
        }
        self.gateway = rig.forward(rig.upstream(answering(ok())), tls=self.settings)

    def pair(self, stem: str) -> dict[str, str]:
        certificate, key = self.files[stem]
        return {"certificate": str(certificate), "key": str(key)}

    def connect(self, name: str | None, context: ssl.SSLContext | None = None) -> SecureClient:
        context = context or self.authority.client_context()
        context.check_hostname = name is not None
        client = SecureClient(self.gateway.port, context, name=name)
        self.rig.clients.append(client)
        return client


def shown(client: SecureClient) -> set[str]:
    certificate: Any = client.tls.getpeercert()
    return {value for kind, value in certificate["subjectAltName"] if kind == "DNS"}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("shop.test", {"shop.test"}),
        ("SHOP.test", {"shop.test"}),
        ("a.partners.test", {"*.partners.test", "partners.test"}),
        ("partners.test", {"*.partners.test", "partners.test"}),
        ("vip.partners.test", {"vip.partners.test"}),
        ("other.test", {"localhost", "other.test"}),
        ("localhost", {"localhost", "other.test"}),
        (None, {"localhost", "other.test"}),
    ],
)
def test_each_name_has_its_certificate(rig: Rig, tmp_path: Path, name: str | None, names: set[str]) -> None:
    named = Named(rig, tmp_path)
    client = named.connect(name)  # the client verifies the name in the certificate
    assert shown(client) == names
    assert client.request(within=LONG).status == 200
    settle(named.gateway, LONG)


@pytest.mark.parametrize("name", ["a.b.partners.test", "partners.test.evil", "x" * 60 + ".test"])
def test_other_names_get_the_first_one_whatever_they_look_like(rig: Rig, tmp_path: Path, name: str) -> None:
    named = Named(rig, tmp_path)
    context = named.authority.client_context()
    context.check_hostname = False
    client = SecureClient(named.gateway.port, context, name=name)
    rig.clients.append(client)
    assert shown(client) == {"localhost", "other.test"}


def test_an_invalid_server_name_fails_its_handshake_without_a_log_line(
    rig: Rig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Send a ClientHello whose server name is overwritten with octets outside ASCII."""
    named = Named(rig, tmp_path)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    greeting = named.authority.client_context().wrap_bio(into, out, server_hostname="shop.test")
    with pytest.raises(ssl.SSLWantReadError):
        greeting.do_handshake()
    hello = out.read()
    assert hello.count(b"shop.test") == 1
    for _ in range(3):
        client = rig.connect(named.gateway)
        client.send(hello.replace(b"shop.test", b"\xff\xfeop.test"))
        client.wait_closed(LONG)
    wait_until(lambda: named.gateway.snapshot()["connections"]["refused"] == 3, "counted", LONG)
    assert "ignored" not in capfd.readouterr().err
    assert shown(named.connect("shop.test")) == {"shop.test"}


def test_a_name_does_not_change_what_clients_must_show_nor_the_version(rig: Rig, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    named = Named(rig, tmp_path, client_ca=str(clients.file), minimum="1.3")
    for name in ("shop.test", "localhost"):
        with pytest.raises((OSError, Closed)):  # the alert arrives with the first response (RFC 8446 §4.4.2.4)
            named.connect(name).request(within=LONG)
        older = named.authority.client_context(clients.issue("robot", common_name="robot"))
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError):
            named.connect(name, older)
        good = named.authority.client_context(clients.issue("robot", common_name="robot"))
        assert named.connect(name, good).request(within=LONG).status == 200


def test_a_certificate_that_is_renewed_holds_from_the_next_connection_on(rig: Rig, tmp_path: Path) -> None:
    named = Named(rig, tmp_path)
    before = named.connect("shop.test")
    assert shown(before) == {"shop.test"}
    named.authority.issue("shop", "shop.test", "www.shop.test")

    def renewed() -> bool:
        return shown(named.connect("shop.test")) == {"shop.test", "www.shop.test"}

    wait_until(renewed, "the new one", LONG)
    assert before.request(within=LONG).status == 200
    shutil.copy(tmp_path / "vip.key", tmp_path / "shop.key.new")
    os.replace(tmp_path / "shop.key.new", tmp_path / "shop.key")  # no match: the old one remains
    logged = [record.getMessage() for record in rig.log.records]
    wait_until(lambda: len(rig.log.records) > len(logged), "it is said", LONG)
    assert renewed()


def test_a_reload_adds_and_takes_names(rig: Rig, tmp_path: Path) -> None:
    named = Named(rig, tmp_path)
    targets = {"u": {"targets": [rig.upstreams[0].url]}}
    routes = [{"path": "/{rest*}", "service": "u"}]
    reload(named.gateway, targets, routes, named.pair("default"))
    context = named.authority.client_context()
    context.check_hostname = False
    client = SecureClient(named.gateway.port, context, name="shop.test")
    rig.clients.append(client)
    assert shown(client) == {"localhost", "other.test"}
    reload(named.gateway, targets, routes, named.settings)
    assert shown(named.connect("shop.test")) == {"shop.test"}


def reload(gateway: Running, services: dict[str, Any], routes: list[dict[str, Any]], tls: dict[str, Any]) -> None:
    gateway.reload(services, routes, tls=tls)
