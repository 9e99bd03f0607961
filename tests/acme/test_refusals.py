"""Orders from servers that refuse, that are overloaded, or that send what they must not."""

from __future__ import annotations

import datetime
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from passerelle.acme.failure import OrderFailed
from passerelle.acme.order import _check, order
from passerelle.acme.schedule import FIRST_PAUSE, LONGEST_WAIT, Attempt, pause, renewal_time
from passerelle.acme.settings import Authority
from passerelle.acme.store import decode, encode
from passerelle.supervisor.errors import ChangeRefused
from tests.acme.gateways import DAY, NAME, Clock, Ordering
from tests.support.gateways import Rig
from tests.support.secure import Authority as Issuer
from tests.support.secure import SecureUpstream, server_context
from tests.support.upstream import Connection
from tests.support.wire import Request

PAST = "Thu, 01 Jan 1970 00:00:00 GMT"


class Server:
    """A server with the directory of ACME at ``/dir`` and ``answer`` (status, fields, body) everywhere else."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        authority = Issuer(folder, "server-ca")
        self.ca = authority.file
        self.answer: tuple[int, str, bytes] = (500, "", b"")
        self.directory_body: bytes | None = None
        self.asked: list[str] = []
        self._upstream = SecureUpstream(self._script, server_context(authority.issue("server", "127.0.0.1")))
        rig.upstreams.append(self._upstream)
        self.directory = f"https://127.0.0.1:{self._upstream.port}/dir"

    def _script(self, connection: Connection) -> None:
        while True:
            request: Request = connection.read_request()
            target = request.target.decode()
            self.asked.append(target)
            status, fields, body = self.answer
            if target == "/dir":
                status, fields = 200, "Content-Type: application/json\r\n"
                base = self.directory.removesuffix("/dir")
                kinds = ("newNonce", "newAccount", "newOrder", "revokeCert", "keyChange")
                body = self.directory_body or json.dumps({kind: f"{base}/{kind}" for kind in kinds}).encode()
            elif target == "/newNonce":
                status, fields, body = 200, "", b""
            head = f"HTTP/1.1 {status} Any\r\nReplay-Nonce: {len(self.asked):022d}\r\n{fields}"
            size = 0 if request.method == b"HEAD" else len(body)
            connection.send(f"{head}Content-Length: {size}\r\n\r\n".encode() + (body if size else b""))

    def auto(self) -> dict[str, str]:
        return {"directory": self.directory, "directory_ca": str(self.ca)}


@pytest.fixture
def server(rig: Rig, tmp_path: Path) -> Server:
    return Server(rig, tmp_path)


@pytest.fixture
def ordering(rig: Rig, server: Server, tmp_path: Path) -> Iterator[Ordering]:
    made = Ordering(rig, tmp_path, Clock(time.time()), server.auto())
    yield made
    made.close()


def limited(retry_after: str) -> tuple[int, str, bytes]:
    problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many new orders", "status": 429}
    fields = f"Content-Type: application/problem+json\r\n{retry_after}"
    return 429, fields, json.dumps(problem).encode()


def test_a_rate_limit_holds_all_orders_for_as_long_as_it_states(server: Server, ordering: Ordering) -> None:
    server.answer = limited("Retry-After: 7200\r\n")
    ordering.reload(server.auto() | {"names": [NAME, "api.example.com"]})
    ordering.turn()
    [line] = ordering.lines
    assert "the authority refuses (rateLimited): too many new orders" in line
    asked = len(server.asked)
    ordering.clock.now += 7000  # longer than the pause after a first failure
    ordering.turn()
    assert len(server.asked) == asked, "neither this name nor the other is ordered"
    with pytest.raises(ChangeRefused, match=r"the authority refuses all orders for another \d+ s"):
        ordering.orders.change({"name": NAME})
    ordering.clock.now += 7200 * 0.06 + 200
    ordering.turn()
    assert len(server.asked) > asked
    # A date in the past, nonsense and an endless wait are bounded.
    for retry_after, least, most in (
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, DAY),
        ("x", 0, DAY),
        ("9" * 30, DAY, 8 * DAY),
    ):
        server.answer = limited(f"Retry-After: {retry_after}\r\n")
        ordering.clock.now += 9 * DAY
        ordering.turn()
        waits = ordering.orders._hold_until - ordering.clock.now
        assert least < waits < most, retry_after


@pytest.mark.parametrize(
    ("status", "fields", "body", "found"),
    [
        (200, "Content-Type: text/html\r\n", b"<html>a login page</html>", "unexpected response of the authority"),
        (201, "Content-Type: application/json\r\n", b"{", "unexpected response of the authority"),
        (201, "Content-Type: application/json\r\n", b"[]", "unexpected response of the authority"),
        (201, "Content-Type: application/json\r\n", b"{}", "unexpected response of the authority"),
        (500, "Content-Type: text/plain\r\n", b"broken", "unexpected response of the authority"),
        (403, "Content-Type: application/problem+json\r\n", b'{"detail": "no", "type": "urn:x"}', "refuses"),
        (403, "Content-Type: application/problem+json\r\n", b'{"detail": {"a": 1}}', "authority"),
    ],
)
def test_wrong_responses(server: Server, ordering: Ordering, status: int, fields: str, body: bytes, found: str) -> None:
    server.answer = status, fields, body
    ordering.turn()
    [line] = ordering.lines
    assert found in line and "Traceback" not in line and "\n" not in line
    assert ordering.kinds() == ["certificate_failed"]
    assert ordering.orders.report()[0]["failures"] == 1


def test_wrong_directories_and_certificates_that_are_not_trusted(server: Server, ordering: Ordering) -> None:
    for body in (b"<html>", b"[]", b'{"newNonce": 1}', b'{"a": '):
        server.directory_body = body
        ordering.orders.change({"name": NAME})
        ordering.turn()
        assert "unexpected response of the authority" in ordering.lines[-1], body
    ordering.reload({"directory": server.directory})
    ordering.orders.change({"name": NAME})
    ordering.turn()
    assert "cannot connect to the authority: its certificate is not accepted: " in ordering.lines[-1]


def bundle_of(key: ec.EllipticCurvePrivateKey, name: str, days: float, signer: object = None) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + made.public_bytes(pem)


def test_certificates_that_were_not_ordered_are_refused() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    good = bundle_of(key, NAME, 90)
    _check(good, key, NAME)
    own = good[: good.index(b"-----BEGIN CERTIFICATE")]
    of_another = bundle_of(other, NAME, 90)
    for bundle, problem in (
        (own + of_another[of_another.index(b"-----BEGIN CERTIFICATE") :], "for another key"),
        (bundle_of(key, "evil.example", 90), f"that is not for {NAME}"),
        (bundle_of(key, NAME, -1), "that has expired"),
        (own, "has sent no certificate"),
        (own + b"<html>", "has sent no certificate"),
        (own + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "has sent no certificate"),
    ):
        with pytest.raises(OrderFailed, match=problem):
            _check(bundle, key, NAME)


def test_an_account_that_is_damaged_is_a_failed_order(server: Server) -> None:
    authority = Authority(server.directory, server.ca)
    for account in (b"junk", b"{}", b'{"key": "x", "uri": 1, "binding": null}'):
        with pytest.raises(OrderFailed):
            order(authority, account, lambda _: None, NAME, "p256", "tls-alpn-01", lambda _: None)


def test_when_certificates_are_renewed_and_orders_are_tried_again() -> None:
    rng = random.Random(1)
    for lifetime in (6 * DAY, 90 * DAY, 5 * 365 * DAY):
        times = {renewal_time(f"{i}.example.com", 1000.0, 1000.0 + lifetime) for i in range(200)}
        assert all(lifetime * 0.3 <= 1000.0 + lifetime - each - lifetime / 30 <= lifetime * 0.34 for each in times)
        assert len(times) > 150, "certificates of one day are not renewed at once"
    assert renewal_time("a", 0.0, 90.0) == renewal_time("a", 0.0, 90.0), "all gateways find the same time"
    first = [pause(1, None, rng) for _ in range(100)]
    assert min(first) >= 0.75 * FIRST_PAUSE and max(first) <= 1.25 * FIRST_PAUSE and len(set(first)) > 90
    in_an_hour = 0.0
    for failures in range(1, 5):
        in_an_hour += 0.75 * FIRST_PAUSE * 3 ** (failures - 1)
    assert in_an_hour >= 3600, "at most five orders for a name in an hour"
    assert pause(10**6, None, rng) <= 1.25 * DAY
    assert 3600 <= pause(1, 3600, rng) <= 3600 * 1.05
    assert pause(1, 1e12, rng) <= 1.05 * LONGEST_WAIT


def test_records_of_orders() -> None:
    attempt = Attempt("https://ca.example", 3, 17.5, "why")
    assert decode(encode(attempt)) == attempt
    for junk in (None, b"", b"junk", b"[]", b"1", b'{"failures": []}', b'{"next_at": "x"}'):
        assert decode(junk) == Attempt()
