"""``passerelle certs`` with a running gateway of two workers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acme.gateways import NAME
from tests.acme.pebble import Pebble
from tests.requirements import needs
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, invoke, up
from tests.support.secure import SecureClient

pytestmark = needs("pebble")


@pytest.fixture
def running(tmp_path: Path, pebble: Pebble) -> Iterator[Up]:
    config = f"""
workers: 2
tls:
  auto: {{directory: '{pebble.directory}', directory_ca: '{pebble.ca}'}}
routes:
  - {{path: /, host: {NAME}, respond: 204}}
"""
    with up(tmp_path, config, "--listen", f"127.0.0.1:{pebble.tls_port}") as started:
        found = started.says(r"listening on https://\S+ · admin http://127\.0\.0\.1:(\d+)")
        started.admin = int(found[1])
        yield started


def certs(running: Up, *arguments: str) -> tuple[int, str]:
    return invoke(Path.cwd(), "certs", *arguments, "--admin", f"127.0.0.1:{running.admin}")


def served(pebble: Pebble, context: ssl.SSLContext) -> set[str]:
    """Return the serial numbers that workers serve; empty where a client does not trust one of them."""
    found = set()
    for _ in range(8):
        try:
            client = SecureClient(pebble.tls_port, context, name=NAME)
        except ssl.SSLCertVerificationError:
            return set()
        found.add(str((client.tls.getpeercert() or {})["serialNumber"]))
        client.close()
    return found


def test_certificates_of_a_running_gateway(running: Up, pebble: Pebble) -> None:
    until_now(lambda: certs(running, "list")[0] == 0, 30.0)
    trusting = pebble.clients()
    until_now(lambda: len(served(pebble, trusting)) == 1, 10.0)
    [first] = served(pebble, trusting)
    code, text = certs(running, "list")
    head, row = text.splitlines()
    assert code == 0 and head.split() == ["NAME", "ISSUER", "VALID", "UNTIL", "NEXT", "ORDER"]
    assert row.startswith(f"{NAME}  Pebble Intermediate CA ") and row.count(" UTC") == 2
    [shown] = json.loads(certs(running, "list", "--json")[1])["certificates"]
    assert set(shown) == {"name", "issuer", "not_after", "next_order", "failures", "error"}
    assert shown["failures"] == 0 and shown["error"] is None

    assert certs(running, "renew", NAME.upper()) == (0, f"a new certificate is ordered for {NAME}\n")
    until_now(lambda: len(now := served(pebble, trusting)) == 1 and first not in now, 30.0)
    code, text = certs(running, "renew", "other.example.com")
    assert code == 1 and f"no certificate is ordered for 'other.example.com'; the names are {NAME}" in text
    events = json.loads(running.get("/events?kind=certificate_renewed", running.admin)[1])["events"]
    assert [event["detail"]["name"] for event in events] == [NAME, NAME]
    assert running.text.count("certificates reloaded") >= 4, "both workers, twice"


def test_a_gateway_that_orders_nothing(tmp_path: Path) -> None:
    with up(tmp_path, "routes: [{path: /, respond: 204}]\n") as plain:
        plain.listening()
        assert certs(plain, "list") == (0, "no certificates are ordered: the file has no tls.auto\n")
        code, text = certs(plain, "renew", NAME)
        assert code == 1 and "no certificates are ordered" in text
