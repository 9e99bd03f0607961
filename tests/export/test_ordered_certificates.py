"""Exports of a file whose certificates the gateway orders: other programs read those of another ACME client."""

from __future__ import annotations

from passerelle.config.models.addresses import Address
from passerelle.export import haproxy, nginx_front, systemd
from passerelle.export.listener_certificate import LOST
from tests.export.serving import deployed, in_place

TEXT = """
tls:
  auto: {external_account: {key_id: a, hmac_key: zWNDZM6eQGHWpSRTPal5eIUYFTu7EajV}}
  ciphers: ECDHE-RSA-AES128-GCM-SHA256
  curve: X25519
services: {u: {targets: ['http://127.0.0.1:5000']}}
routes: [{path: /, host: www.example.com, service: u}]
"""
LIVE = "/etc/letsencrypt/live/www.example.com"
GATEWAYS = [Address(host="10.0.0.1", port=8443)]


def test_nginx_has_the_files_of_certbot_and_the_settings_of_tls() -> None:
    in_front, losses = nginx_front.export(deployed(TEXT), GATEWAYS, None)
    assert [each.message for each in losses if each.loc == ("tls", "auto")] == [LOST.why]
    for text in (in_front, in_place(deployed(TEXT))[0]):
        for line in (
            f"ssl_certificate {LIVE}/fullchain.pem;",
            f"ssl_certificate_key {LIVE}/privkey.pem;",
            "ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256;",
            "ssl_ecdh_curve X25519;",
        ):
            assert line in text
        assert "hmac" not in text and "zWND" not in text


def test_haproxy_has_the_files_of_certbot_and_the_settings_of_tls() -> None:
    text, losses = haproxy.export(deployed(TEXT), GATEWAYS, None)
    [bind] = [line.strip() for line in text.splitlines() if line.strip().startswith("bind ")]
    assert f"crt '{LIVE}/fullchain.pem'" in bind
    assert bind.endswith("ciphers ECDHE-RSA-AES128-GCM-SHA256 curves X25519")
    assert ("tls", "auto") in [each.loc for each in losses]


def test_a_unit_of_systemd_may_write_certificates() -> None:
    text, losses = systemd.export(deployed(TEXT), "/opt/passerelle/bin/passerelle", "passerelle")
    assert not losses
    [writable] = [line for line in text.splitlines() if line.startswith("ReadWritePaths=")]
    assert writable.endswith("/.passerelle")
    shared = systemd.export(deployed(TEXT + "redis: redis://127.0.0.1:6379/0\n"), "/opt/p", "passerelle")[0]
    assert writable in shared, "also with Redis: workers read files"
