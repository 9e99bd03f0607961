"""Gateways that order certificates: each a worker and its orders, on one event loop, with a clock that tests set."""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passerelle.acme.challenge import Pending
from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog
from passerelle.supervisor.certificate_orders import CertificateOrders
from tests.acme.pebble import Pebble
from tests.support.gateways import Rig, Running
from tests.support.secure import SecureClient

NAME = "www.example.com"
DAY = 86_400.0


class Clock:
    """The time since 1970: that of the machine, plus what tests add."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Ordering:
    """A gateway that orders certificates. ``workers`` respond to challenges; the first one has the certificates."""

    def __init__(self, rig: Rig, folder: Path, clock: Clock, auto: dict[str, Any], port: int = 0, **top: Any) -> None:
        self.rig = rig
        self.clock = clock
        self.folder = folder / "certificates"
        self.lines: list[str] = []
        self.settings: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}",
            "admin": "off",
            "access_log": "off",
            "state": str(folder),
            "routes": [{"path": "/{rest*}", "host": NAME, "respond": {"status": 200, "body": "hello"}}],
            "tls": {"auto": auto},
            **top,
        }
        self.config: Config = load_text(json.dumps(self.settings))
        self.running = Running(rig.loop, self.settings)
        rig.gateways.append(self.running)
        self.workers = [self.running]
        self.events = EventLog()
        self.orders = self.restart()

    def restart(self) -> CertificateOrders:
        """Begin with what is stored, as a new process does."""

        def made() -> CertificateOrders:
            rng = random.Random(1)
            return CertificateOrders(
                lambda: self.config, self.events, self.lines.append, self._send, wall=self.clock, rng=rng, interval=0.05
            )

        self.orders = self.rig.loop.call(made)
        return self.orders

    async def _send(self, pending: Sequence[Pending]) -> list[str]:
        for worker in self.workers:
            worker.gateway.set_challenges(pending)
        return []

    def reload(self, auto: dict[str, Any] | None, **top: Any) -> None:
        """Apply a configuration with other settings."""
        self.settings = {**self.settings, **top, "tls": {**self.settings["tls"], "auto": auto}}
        self.config = load_text(json.dumps(self.settings))
        self.rig.loop.call(lambda: self.running.gateway.reload(self.config))

    def turn(self) -> None:
        """Make the orders that are due now."""
        self.rig.loop.run(self.orders.turn(), 60.0)

    def close(self) -> None:
        """Give up the right to order."""
        self.rig.loop.run(self.orders.close())

    def kinds(self) -> list[str]:
        """Return the kinds of all events."""
        return [event.kind for event in self.events.since()]

    def certificate(self, context: ssl.SSLContext | None = None, name: str = NAME) -> str | None:
        """Return the serial number of the certificate that a new client gets; None without one that it trusts."""
        try:
            client = SecureClient(self.running.port, context or anyone(), name=name)
        except ssl.SSLCertVerificationError:
            return None
        try:
            found = client.tls.getpeercert()
            if context is None or found is None:
                return None
            return str(found["serialNumber"])
        finally:
            client.close()


def anyone() -> ssl.SSLContext:
    """Return a context of clients that accept any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def auto(pebble: Pebble, **more: Any) -> dict[str, Any]:
    """Return the settings of a gateway that orders from ``pebble``."""
    return {"directory": pebble.directory, "directory_ca": str(pebble.ca), **more}
