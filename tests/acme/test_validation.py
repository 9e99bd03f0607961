"""Handshakes of authorities that validate a name (RFC 8737): a certificate for that alone, and no request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from passerelle.acme.challenge import HTTP, TLS, Pending, pending
from passerelle.config import load_text
from tests.acme.gateways import NAME, anyone
from tests.support.gateways import Rig, Running
from tests.support.secure import Authority, SecureClient
from tests.support.wire import wait_until

ACME = "acme-tls/1"
ROUTE = {"path": "/{rest*}", "respond": {"status": 200, "body": "hello"}}
PENDING = pending(TLS, NAME, "token", "token.thumbprint")


@pytest.fixture
def secured(rig: Rig, tmp_path: Path) -> Running:
    """A gateway that requires client certificates."""
    certificate, key = Authority(tmp_path).issue("gateway", NAME)
    clients = Authority(tmp_path, "clients")
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(clients.file)}
    return rig.gateway({}, [ROUTE], tls=tls)


def respond(running: Running, *challenges: Pending) -> None:
    running._loop.call(lambda: running.gateway.set_challenges(challenges))


def reload(running: Running, tls: dict[str, Any]) -> None:
    config = load_text(json.dumps(running._settings | {"tls": tls}))
    running._loop.call(lambda: running.gateway.reload(config))


def offering(*protocols: str, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = anyone()
    context.set_alpn_protocols(list(protocols))
    context.maximum_version = maximum
    return context


def handshake(running: Running, context: ssl.SSLContext, name: str | None = NAME) -> tuple[str | None, bytes]:
    """Return the protocol that was agreed on and the certificate of the gateway."""
    client = SecureClient(running.port, context, name=name)
    try:
        return client.tls.selected_alpn_protocol(), client.tls.getpeercert(True) or b""
    finally:
        client.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_certificate_of_a_validation(secured: Running, version: ssl.TLSVersion) -> None:
    respond(secured, PENDING)
    protocol, certificate = handshake(secured, offering(ACME, maximum=version), NAME.upper())
    assert protocol == ACME
    found = x509.load_der_x509_certificate(certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    identifier = found.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert identifier.critical
    assert isinstance(identifier.value, x509.UnrecognizedExtension)
    assert identifier.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumbprint").digest()


def test_a_validation_is_no_way_around_client_certificates(secured: Running) -> None:
    respond(secured, PENDING)
    client = SecureClient(secured.port, offering(ACME), name=NAME)
    try:
        with contextlib.suppress(OSError):
            client.tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.tls.recv(100) == b"", "the connection ends without a response"
    finally:
        client.close()
    wait_until(lambda: secured.snapshot()["connections"]["open"] == 0, "the connection is closed")
    assert not any(route["requests"] for route in secured.snapshot()["routes"].values())


@pytest.mark.parametrize(
    ("protocols", "name"),
    [((ACME,), "other.example.com"), ((ACME,), None), ((ACME, "h2"), NAME), (("h2", ACME), NAME)],
)
def test_handshakes_that_are_no_validation_are_refused(
    secured: Running, protocols: tuple[str, ...], name: str | None
) -> None:
    respond(secured, PENDING)
    with pytest.raises(ssl.SSLError):
        handshake(secured, offering(*protocols), name)


def test_without_a_pending_challenge_nothing_is_validated(secured: Running) -> None:
    for challenges in ((), (pending(HTTP, NAME, "token", "token.thumbprint"),)):
        respond(secured, PENDING)
        respond(secured, *challenges)
        with pytest.raises(ssl.SSLError) as refused:
            handshake(secured, offering(ACME))
        assert "alert no application protocol" in str(refused.value)


def test_challenges_survive_a_reload_and_renewed_files(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway", NAME)
    tls = {"certificate": str(certificate), "key": str(key)}
    running = rig.gateway({}, [ROUTE], tls=tls)
    respond(running, PENDING)
    reload(running, {**tls, "minimum": "1.3"})
    assert handshake(running, offering(ACME))[0] == ACME
    before = handshake(running, offering("http/1.1"))[1]
    authority.issue("gateway", NAME)
    wait_until(lambda: handshake(running, offering("http/1.1"))[1] != before, "the files are loaded again")
    assert handshake(running, offering(ACME))[0] == ACME


def test_a_proof_that_cannot_be_used_leaves_the_listener_as_it_is(secured: Running) -> None:
    respond(secured, PENDING)
    with pytest.raises(ssl.SSLError):
        respond(secured, {**PENDING, "proof": "junk"})
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        handshake(secured, offering(ACME))
    respond(secured, PENDING)
    assert handshake(secured, offering(ACME))[0] == ACME


def test_requests_for_tokens(rig: Rig) -> None:
    plain = rig.gateway({}, [ROUTE])
    respond(plain, pending(HTTP, NAME, "some_token-1", "some_token-1.thumbprint"))
    client = rig.connect(plain)
    path = "/.well-known/acme-challenge/"
    found = client.request("GET", f"{path}some_token-1")
    assert (found.status, found.body) == (200, b"some_token-1.thumbprint")
    assert client.request("HEAD", f"{path}some_token-1").status == 200
    with_body = rig.connect(plain).request("GET", f"{path}some_token-1", body=b"x" * 1000)
    assert with_body.body == b"some_token-1.thumbprint"
    for target in (f"{path}other", path, f"{path}some_token-1/", f"{path}some_token-1?x", "/"):
        assert client.request("GET", target).body == b"hello", target
    assert rig.connect(plain).request("POST", f"{path}some_token-1", body=b"x").body == b"hello"
    respond(plain)
    assert client.request("GET", f"{path}some_token-1").body == b"hello", "an open connection, too"
    client.send(b"nonsense\r\n\r\n")
    assert client.read_response("GET").status == 400


def test_suites_and_the_curve_of_the_listener(rig: Rig, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("gateway", NAME)
    tls = {"certificate": str(certificate), "key": str(key)}
    suites = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]
    running = rig.gateway({}, [ROUTE], tls={**tls, "ciphers": suites, "curve": "prime256v1"})

    def agreed(ciphers: str, curve: str) -> str:
        context = offering("http/1.1", maximum=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        context.set_ecdh_curve(curve)
        client = SecureClient(running.port, context, name=NAME)
        try:
            found = client.tls.cipher()
            return found[0] if found is not None else ""
        finally:
            client.close()

    assert agreed("ECDHE+AESGCM", "prime256v1") in suites
    for ciphers, curve in (("ECDHE+AES256", "prime256v1"), ("ECDHE+AESGCM", "secp384r1")):
        with pytest.raises(ssl.SSLError):
            agreed(ciphers, curve)
    reload(running, tls)
    assert agreed("ECDHE+AES256", "prime256v1").startswith("ECDHE")


def test_silent_clients_of_a_validation_are_bounded(secured: Running) -> None:
    respond(secured, PENDING)
    with socket.create_connection(("127.0.0.1", secured.port)):
        wait_until(lambda: secured.gateway._listener.handshakes, "the handshake counts as a connection")
    wait_until(lambda: not secured.gateway._listener.handshakes, "it ends with the connection")
