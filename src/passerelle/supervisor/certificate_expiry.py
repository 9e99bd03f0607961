"""Reports certificates that expire soon: 14, 7 and 1 days before, and when they have expired."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from passerelle.acme.files import certificate_file
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog

DAY = 86_400.0
THRESHOLDS = (14, 7, 1, 0)  # days before the end of the validity
INTERVAL = 60.0  # seconds between two checks; a file is read only if it has changed


def certificate_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield the place in the configuration and the path of each certificate."""
    tls = config.tls
    if tls is not None:
        if tls.pair is not None:
            yield "tls", tls.pair[0]
        for name in config.ordered_names:
            yield f"tls.auto.{name}", certificate_file(config.certificates_folder, name)
        for index, each in enumerate(tls.certificates):
            yield f"tls.certificates[{index}]", each.certificate
    for name, service in config.services.items():
        if service.tls is not None and service.tls.certificate is not None:
            yield f"services.{name}.tls", service.tls.certificate


def reached(end: float, now: float) -> int | None:
    """Return the last threshold (days) that a certificate valid until ``end`` has reached, or None."""
    passed = [days for days in THRESHOLDS if now >= end - days * DAY]
    return passed[-1] if passed else None


class CertificateExpiry:
    """Records in ``events`` each threshold that a certificate reaches, once for each certificate."""

    def __init__(self, config: Callable[[], Config], events: EventLog, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._events = events
        self._clock = clock
        self._ends: dict[Path, tuple[float, float | None]] = {}  # time of modification, and end of the validity
        self.ends: dict[str, float] = {}  # by place: the end of the validity, in seconds since 1970
        self._reported: dict[str, tuple[float, int]] = {}  # by place: the end of the validity, and the threshold

    async def run(self) -> None:
        """Check all certificates from time to time, until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(INTERVAL)

    def check(self) -> None:
        """Record the thresholds that were reached since the last call."""
        now = self._clock()
        ends: dict[str, float] = {}
        for place, path in certificate_files(self._config()):
            end = self._end(path)
            if end is not None:
                ends[place] = end
            days = reached(end, now) if end is not None else None
            if end is None or days is None or self._reported.get(place) == (end, days):
                continue
            self._reported[place] = end, days
            until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end))
            what = "has expired" if days == 0 else f"expires in less than {days} day{'s' * (days > 1)}"
            text = f"{place}: {path} {what}: it is valid until {until}"
            self._events.record("certificate", text, place=place, valid_until=end, days=days)
        self.ends = ends

    def _end(self, path: Path) -> float | None:
        """Return the end of the validity of a certificate; None if the file cannot be used."""
        from cryptography import x509  # the import takes 0.1 s, and most files have no certificate

        try:
            changed = path.stat().st_mtime
            known = self._ends.get(path)
            if known is None or known[0] != changed:
                try:
                    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
                except ValueError:
                    known = changed, None
                else:
                    known = changed, end
                self._ends[path] = known
        except OSError:
            return None
        return known[1]
