"""Certificates from a real ACME server: issued, renewed, and what happens where that fails."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from passerelle.acme.challenge import Pending
from passerelle.acme.schedule import LONGEST_PAUSE
from passerelle.config import load_text
from passerelle.supervisor.errors import ChangeRefused
from tests.acme.gateways import DAY, NAME, Clock, Ordering, auto
from tests.acme.pebble import HMAC_KEY, KEY_ID, Pebble
from tests.requirements import needs
from tests.support.gateways import Rig, Running
from tests.support.secure import Authority, SecureClient
from tests.support.wire import wait_until

pytestmark = needs("pebble")

YEAR = 365 * DAY


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def ordering(rig: Rig, pebble: Pebble, tmp_path: Path, clock: Clock) -> Iterator[Ordering]:
    made = Ordering(rig, tmp_path, clock, auto(pebble), pebble.tls_port)
    yield made
    made.close()


def served(ordering: Ordering, context: ssl.SSLContext, other_than: str | None = None) -> str:
    """Wait until clients get a certificate that ``context`` trusts, and return its serial number."""
    found: list[str] = []

    def look() -> bool:
        serial = ordering.certificate(context)
        if serial is not None and serial != other_than:
            found.append(serial)
        return bool(found)

    wait_until(look, f"a new certificate is served; {ordering.lines}")
    return found[0]


def hello(client: SecureClient) -> bool:
    """Whether the client, whose connection may be old, has a response of the route."""
    client.send(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    return client.read_response("GET").body == b"hello"


def test_issued_and_renewed_while_connections_stay_open(pebble: Pebble, ordering: Ordering, clock: Clock) -> None:
    trusting = pebble.clients()
    assert ordering.certificate(trusting) is None, "the certificate before the first one is not trusted"
    before = pebble.issued
    ordering.turn()
    first = served(ordering, trusting)
    assert ordering.kinds() == ["certificate_renewed"]
    [line] = ordering.lines
    assert line.startswith(f"tls.auto: {NAME}: certificate of Pebble Intermediate CA ")

    client = SecureClient(ordering.running.port, trusting, name=NAME)
    ordering.rig.clients.append(client)
    assert hello(client)
    [shown] = ordering.orders.report()
    assert shown["error"] is None and shown["not_after"] > shown["next_order"] > clock.now
    clock.now = shown["next_order"] - DAY
    ordering.turn()
    assert pebble.issued == before + 1, "nothing is due yet"
    clock.now = shown["next_order"]
    ordering.turn()
    second = served(ordering, trusting, other_than=first)
    assert first != second and pebble.issued == before + 2
    assert hello(client), "the connection outlives the renewal"


def test_files_are_private_and_a_restart_orders_nothing(pebble: Pebble, ordering: Ordering) -> None:
    ordering.turn()
    kept = sorted(ordering.folder.iterdir())
    names = [path.name for path in kept]
    assert [name for name in names if not name.startswith(".account-")] == [
        ".lock",
        ".placeholder.pem",
        f"{NAME}.json",
        f"{NAME}.pem",
    ]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert ordering.folder.stat().st_mode & 0o777 == 0o700
    assert (ordering.folder / f"{NAME}.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    orders, accounts = pebble.orders, len(names)
    ordering.close()
    ordering.restart()
    ordering.turn()
    assert pebble.orders == orders
    ordering.orders.change({"name": NAME})
    ordering.turn()
    assert pebble.orders == orders + 1
    assert len(list(ordering.folder.iterdir())) == accounts, "the account is used again"


def test_http_01_on_a_plain_listener_that_redirects(rig: Rig, pebble: Pebble, tmp_path: Path, clock: Clock) -> None:
    ordering = Ordering(rig, tmp_path, clock, auto(pebble, challenge="http-01"))
    to_https = {"path": "/{rest*}", "redirect": {"scheme": "https", "status": 308}}
    plain = rig.gateway({}, [to_https], listen=f"127.0.0.1:{pebble.http_port}")
    ordering.workers.append(plain)
    ordering.turn()
    served(ordering, pebble.clients())
    found = rig.connect(plain).request("GET", "/.well-known/acme-challenge/token")
    assert found.status == 308, "without a pending challenge, the path is a path like others"
    ordering.close()


def test_a_challenge_that_does_not_reach_the_gateway(rig: Rig, pebble: Pebble, tmp_path: Path, clock: Clock) -> None:
    ordering = Ordering(rig, tmp_path, clock, auto(pebble))  # on another port than that which is validated
    ordering.turn()
    assert ordering.kinds() == ["certificate_failed"]
    assert "the authority could not validate the name: tls-alpn-01: " in ordering.lines[0]
    assert "clients get a certificate signed by itself" in ordering.lines[0]
    orders = pebble.orders
    ordering.turn()
    ordering.close()
    ordering.restart()
    ordering.turn()
    assert pebble.orders == orders, "also a restart waits"
    [shown] = ordering.orders.report()
    assert shown["failures"] == 1 and clock.now + 90 <= shown["next_order"] <= clock.now + 150
    clock.now = shown["next_order"]
    ordering.turn()
    assert pebble.orders == orders + 1
    [shown] = ordering.orders.report()
    assert shown["failures"] == 2 and shown["next_order"] > clock.now + 250
    clock.now -= YEAR  # a clock that was wrong must not delay orders for a year
    ordering.turn()
    assert pebble.orders == orders + 2
    ordering.close()


def test_a_server_that_is_down_and_the_certificate_in_use(rig: Rig, tmp_path: Path, clock: Clock) -> None:
    with Pebble(tmp_path) as pebble:
        pebble.serve(NAME)
        ordering = Ordering(rig, tmp_path, clock, auto(pebble), pebble.tls_port)
        ordering.turn()
        trusting = pebble.clients()
        first = served(ordering, trusting)
        [shown] = ordering.orders.report()
        pebble.stop()
        clock.now = shown["next_order"]
        ordering.turn()
        assert "cannot reach the authority: Connection refused" in ordering.lines[-1]
        assert "the certificate in use is valid until" in ordering.lines[-1]
        assert ordering.kinds() == ["certificate_renewed", "certificate_failed"]
        assert ordering.certificate(trusting) == first
        for _ in range(12):
            clock.now = ordering.orders.report()[0]["next_order"]
            ordering.turn()
        waits = ordering.orders.report()[0]["next_order"] - clock.now
        assert 0.7 * LONGEST_PAUSE < waits < 1.3 * LONGEST_PAUSE
        assert ordering.certificate(trusting) == first
        pebble.start()  # it has forgotten all accounts
        ordering.orders.change({"name": NAME})  # before the time has come
        ordering.turn()
        assert ordering.kinds()[-1] == "certificate_renewed"
        served(ordering, pebble.clients())
        ordering.close()


def test_an_account_that_is_bound_to_another(rig: Rig, tmp_path: Path, clock: Clock) -> None:
    with Pebble(tmp_path, binding=True) as pebble:
        pebble.serve(NAME)
        ordering = Ordering(rig, tmp_path, clock, auto(pebble, contact="ops@example.com"), pebble.tls_port)
        ordering.turn()
        assert "externalAccountRequired" in ordering.lines[-1]
        binding = {"key_id": KEY_ID, "hmac_key": HMAC_KEY}
        ordering.reload(auto(pebble, contact="ops@example.com", external_account=binding))
        ordering.orders.change({"name": NAME})
        ordering.turn()
        served(ordering, pebble.clients())
        assert HMAC_KEY not in repr(ordering.config)
        ordering.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("key_type", "bits"), [("p384", "ECDSA secp384r1"), ("rsa2048", "RSA 2048")], ids=["p384", "rsa2048"]
)
def test_kinds_of_keys(rig: Rig, pebble: Pebble, tmp_path: Path, clock: Clock, key_type: str, bits: str) -> None:
    ordering = Ordering(rig, tmp_path, clock, auto(pebble, key_type=key_type), pebble.tls_port)
    ordering.turn()
    served(ordering, pebble.clients())
    key = x509.load_pem_x509_certificates((ordering.folder / f"{NAME}.pem").read_bytes())[0].public_key()
    found = f"ECDSA {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else ""
    assert bits == (f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else found)
    ordering.close()


@pytest.mark.long
def test_reloads_that_add_a_name_and_turn_orders_off_and_on(pebble: Pebble, ordering: Ordering, tmp_path: Path) -> None:
    ordering.turn()
    trusting = pebble.clients()
    first = served(ordering, trusting)
    orders = pebble.orders
    ordering.reload(auto(pebble, names=[NAME, "api.example.com"]))
    ordering.turn()
    assert pebble.orders == orders + 1
    wait_until(lambda: ordering.certificate(trusting, "api.example.com") is not None, "the second name")
    assert ordering.certificate(trusting) == first
    own = Authority(tmp_path).issue("own", NAME)
    with_files = ordering.settings | {"tls": {"certificate": str(own[0]), "key": str(own[1])}}
    ordering.config = load_text(json.dumps(with_files))
    ordering.rig.loop.call(lambda: ordering.running.gateway.reload(ordering.config))
    ordering.turn()
    assert ordering.certificate(trusting) is None and ordering.orders.report() == []
    with pytest.raises(ChangeRefused, match="no certificates are ordered"):
        ordering.orders.change({"name": NAME})
    ordering.reload(auto(pebble))
    ordering.turn()
    assert ordering.certificate(trusting) == first and pebble.orders == orders + 1


@pytest.mark.long
def test_another_authority_replaces_the_certificate(rig: Rig, pebble: Pebble, tmp_path: Path, clock: Clock) -> None:
    with Pebble(tmp_path) as other:
        other.serve(NAME)
        ordering = Ordering(rig, tmp_path, clock, auto(other), other.tls_port)
        ordering.turn()
        served(ordering, other.clients())
        ordering.reload(auto(pebble))
        ordering.turn()
        assert "could not validate" in ordering.lines[-1]
        assert ordering.certificate(other.clients()) is not None, "the certificate in use stays until there is another"
        ordering.close()


def test_a_certificate_that_cannot_be_written_is_not_ordered_again(pebble: Pebble, ordering: Ordering) -> None:
    in_the_way = ordering.folder / f"{NAME}.pem"
    respond = ordering.orders._send

    async def block(pending: Sequence[Pending]) -> list[str]:
        if not pending:  # the name is validated, and the certificate is not there yet
            in_the_way.mkdir()
            (in_the_way / "file").touch()
        return await respond(pending)

    ordering.orders._send = block
    orders = pebble.orders
    ordering.turn()
    assert pebble.orders == orders + 1 and "cannot be written yet" in ordering.lines[-1]
    ordering.turn()
    (in_the_way / "file").unlink()
    in_the_way.rmdir()
    ordering.turn()
    assert pebble.orders == orders + 1
    served(ordering, pebble.clients())


def test_without_a_folder_nothing_is_ordered(pebble: Pebble, ordering: Ordering) -> None:
    for path in ordering.folder.iterdir():
        path.unlink()
    ordering.folder.rmdir()
    ordering.folder.write_text("in the way")
    orders = pebble.orders
    ordering.turn()
    ordering.turn()
    assert pebble.orders == orders
    [line] = ordering.lines
    assert "Not a directory; no certificate is ordered" in line
    assert ordering.kinds() == ["store"]
    ordering.folder.unlink()
    ordering.turn()
    assert pebble.orders == orders + 1 and ordering.kinds() == ["store", "certificate_renewed", "store"]


def test_two_processes_with_one_folder_make_one_order(
    rig: Rig, pebble: Pebble, ordering: Ordering, tmp_path: Path, clock: Clock
) -> None:
    other = Ordering(rig, tmp_path, clock, auto(pebble))
    other.workers.append(ordering.running)  # the one that the authority reaches
    orders = pebble.orders

    async def both() -> None:
        await asyncio.gather(ordering.orders.turn(), other.orders.turn())

    rig.loop.run(both(), 60.0)
    other.turn()
    assert pebble.orders == orders + 1
    trusting = pebble.clients()
    assert served(ordering, trusting) == served(other, trusting)
    assert other.orders.report()[0]["issuer"] is not None
    other.close()


def test_a_worker_that_does_not_confirm_a_challenge(pebble: Pebble, ordering: Ordering) -> None:
    async def silent(pending: Sequence[Pending]) -> list[str]:
        return ["gateway-2"]

    ordering.orders._send = silent
    ordering.turn()
    assert "no response from gateway-2, which cannot respond to the challenge" in ordering.lines[0]


def test_names_and_arguments_of_renewals(pebble: Pebble, ordering: Ordering) -> None:
    ordering.turn()
    for arguments, problem in (
        ({}, "an order needs name=NAME"),
        ({"name": NAME, "all": "1"}, "an order needs name=NAME"),
        ({"name": "other.example.com"}, "no certificate is ordered for 'other.example.com'; the names are"),
    ):
        with pytest.raises(ChangeRefused, match=problem):
            ordering.orders.change(arguments)


@pytest.mark.long
def test_a_damaged_certificate_is_ordered_again(pebble: Pebble, ordering: Ordering) -> None:
    ordering.turn()
    served(ordering, pebble.clients())
    ordering.close()
    (ordering.folder / f"{NAME}.pem").write_bytes(b"junk")
    (ordering.folder / f"{NAME}.json").write_bytes(b"junk")
    started = Running(ordering.rig.loop, ordering.settings | {"listen": "127.0.0.1:0"})
    ordering.rig.gateways.append(started)
    with socket.create_connection(("127.0.0.1", started.port)):
        pass  # a gateway starts
    ordering.restart()
    ordering.turn()
    served(ordering, pebble.clients())
