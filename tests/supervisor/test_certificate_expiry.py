"""Certificates that expire soon are events, once for each threshold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from passerelle.config.loader import load_text
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog
from passerelle.supervisor.certificate_expiry import DAY, CertificateExpiry, reached

END = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Clock:
    now = END.timestamp() - 30 * DAY

    def __call__(self) -> float:
        return self.now


def issue(folder: Path, end: datetime = END) -> None:
    issued = trustme.CA().issue_cert("localhost", not_before=end - timedelta(days=90), not_after=end)
    (folder / "gateway.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "gateway.key").write_bytes(issued.private_key_pem.bytes())


def config(folder: Path) -> Config:
    return load_text(
        "tls: {certificate: gateway.pem, key: gateway.key}\n"
        "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n",
        folder=folder,
    )


@pytest.mark.parametrize(
    ("days_left", "threshold"),
    [(20, None), (14.01, None), (14, 14), (8, 14), (7, 7), (1.5, 7), (1, 1), (0.01, 1), (0, 0), (-9, 0)],
)
def test_thresholds(days_left: float, threshold: int | None) -> None:
    assert reached(100 * DAY, (100 - days_left) * DAY) == threshold


def test_each_threshold_is_reported_once_until_the_certificate_is_renewed(tmp_path: Path) -> None:
    issue(tmp_path)
    clock, events = Clock(), EventLog()
    loaded = config(tmp_path)
    expiry = CertificateExpiry(lambda: loaded, events, clock)

    def days() -> list[object]:
        for _ in range(3):
            expiry.check()
        return [event.detail["days"] for event in events.since()]

    assert days() == []
    clock.now = END.timestamp() - 13 * DAY
    assert days() == [14]
    clock.now = END.timestamp() - 6 * DAY
    assert days() == [14, 7]
    issue(tmp_path, END + timedelta(days=90))
    assert days() == [14, 7]
    clock.now = END.timestamp() + 91 * DAY
    assert days() == [14, 7, 0]
    text = events.since()[0].text
    assert text == f"tls: {tmp_path}/gateway.pem expires in less than 14 days: it is valid until 2026-06-01 12:00 UTC"


def test_files_that_are_gone_or_broken_are_left_to_those_that_load_them(tmp_path: Path) -> None:
    issue(tmp_path)
    loaded, events = config(tmp_path), EventLog()
    expiry = CertificateExpiry(lambda: loaded, events, lambda: END.timestamp() + 1)
    (tmp_path / "gateway.pem").write_text("broken")
    expiry.check()
    (tmp_path / "gateway.pem").unlink()
    expiry.check()
    assert events.since() == []


def test_certificates_that_are_ordered_are_watched(tmp_path: Path) -> None:
    issue(tmp_path)
    loaded = load_text("tls: auto\nroutes: [{path: /, host: www.example.com, respond: 204}]\n", folder=tmp_path)
    clock, events = Clock(), EventLog()
    expiry = CertificateExpiry(lambda: loaded, events, clock)
    expiry.check()
    assert expiry.ends == {}, "there is none yet"
    file = tmp_path / ".passerelle" / "certificates" / "www.example.com.pem"
    file.parent.mkdir(parents=True)
    file.write_bytes((tmp_path / "gateway.key").read_bytes() + (tmp_path / "gateway.pem").read_bytes())
    clock.now = END.timestamp() - 13 * DAY
    expiry.check()
    assert expiry.ends == {"tls.auto.www.example.com": END.timestamp()}
    [event] = events.since()
    assert event.detail["place"] == "tls.auto.www.example.com" and event.detail["days"] == 14
