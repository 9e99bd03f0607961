"""Certificates that exist but cannot be used: the error is at their key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from passerelle.config import inspect_text
from passerelle.config.checks import tls as check_tls

ROUTES = "services: {u: {targets: ['https://127.0.0.1:5001']}}\nroutes: [{path: /, service: u}]\n"


def messages(folder: Path, tls: str) -> list[str]:
    report = inspect_text(f"tls: {tls}\n{ROUTES}", folder=folder)
    return [str(problem).replace(f"{folder}/", "") for problem in report.errors]


def test_unusable_files_are_errors(tmp_path: Path) -> None:
    ca = trustme.CA()
    for stem in ("one", "two"):
        issued = ca.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{stem}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{stem}.key")
    loaded = serialization.load_pem_private_key((tmp_path / "one.key").read_bytes(), None)
    locked = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    (tmp_path / "junk").write_text("junk")
    at = "gateway.yaml:1:"
    assert messages(tmp_path, "{certificate: one.pem, key: one.key, client_ca: one.pem}") == []
    assert messages(tmp_path, "{certificate: one.pem, key: two.key}") == [
        f"{at}34: tls.key: two.key is not the key of one.pem"
    ]
    assert messages(tmp_path, "{certificate: junk, key: one.key}") == [
        f"{at}20: tls.certificate: junk contains no certificate in PEM"
    ]
    assert messages(tmp_path, "{certificate: one.pem, key: junk}") == [
        f"{at}34: tls.key: junk contains no private key in PEM"
    ]
    assert messages(tmp_path, "{certificate: one.pem, key: locked.key}") == [
        f"{at}34: tls.key: locked.key is encrypted; a gateway that starts by itself cannot ask for a password"
    ]
    assert messages(tmp_path, "{certificate: one.pem, key: one.key, client_ca: junk}") == [
        f"{at}54: tls.client_ca: junk contains no certificate in PEM"
    ]


def test_certificates_for_server_names(tmp_path: Path) -> None:
    ca = trustme.CA()
    for stem in ("one", "two"):
        issued = ca.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{stem}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{stem}.key")
    first = "{certificate: one.pem, key: one.key, certificates: "
    assert messages(tmp_path, first + "[{names: [a.test, '*.a.test'], certificate: two.pem, key: two.key}]}") == []
    wrong = "[{names: [a.test, b.test, A.test], certificate: two.pem, key: two.key}, "
    wrong += "{names: [c.test, b.test], certificate: two.pem, key: one.key}]}"
    assert messages(tmp_path, first + wrong) == [
        "gateway.yaml:1:83: tls.certificates[0].names[2]: found 'a.test' again; it is in tls.certificates[0]",
        "gateway.yaml:1:146: tls.certificates[1].names[1]: found 'b.test' again; it is in tls.certificates[0]",
        "gateway.yaml:1:182: tls.certificates[1].key: one.key is not the key of two.pem",
    ]


def test_a_service_without_verification_is_a_warning() -> None:
    text = ROUTES.replace("5001']}", "5001'], tls: {verify: false}}")
    warnings = inspect_text(text).warnings
    assert [(w.key, w.message) for w in warnings] == [
        ("services.u.tls.verify", "anyone on the network path can read and change everything")
    ]


def test_certificates_outside_their_validity_are_warnings(tmp_path: Path) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    ca = trustme.CA()
    for stem, start, end in (
        ("good", now - day, now + 90 * day),
        ("over", now - 9 * day, now - day),
        ("soon", now - 9 * day, now + day),
        ("early", now + day, now + 9 * day),
    ):
        issued = ca.issue_cert("localhost", not_before=start, not_after=end)
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{stem}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{stem}.key")

    def warned(stem: str, tls: str) -> list[str]:
        pair = f"certificate: {stem}.pem, key: {stem}.key"
        report = inspect_text(tls.replace("PAIR", pair), folder=tmp_path)
        assert report.errors == ()
        return [str(problem).replace(f"{tmp_path}/", "") for problem in report.warnings]

    listener = "tls: {PAIR}\n" + ROUTES
    assert warned("good", listener) == []
    assert warned("over", listener) == [
        f"gateway.yaml:1:20: tls.certificate: over.pem has expired: it was valid until {now - day:%Y-%m-%d %H:%M} UTC"
    ]
    assert warned("soon", listener) == [
        f"gateway.yaml:1:20: tls.certificate: soon.pem expires soon: it is valid until {now + day:%Y-%m-%d %H:%M} UTC"
    ]
    assert warned("early", listener) == [
        "gateway.yaml:1:20: tls.certificate: early.pem is not valid yet: "
        f"it is valid from {now + day:%Y-%m-%d %H:%M} UTC"
    ]
    second = "tls: {certificate: good.pem, key: good.key, certificates: [{names: [a.test], PAIR}]}\n" + ROUTES
    [line] = warned("over", second)
    assert "tls.certificates[0].certificate: over.pem has expired" in line
    service = "services: {u: {targets: ['https://127.0.0.1:5001'], tls: {PAIR}}}\nroutes: [{path: /, service: u}]\n"
    [line] = warned("over", service)
    assert "services.u.tls.certificate: over.pem has expired" in line


def test_names_of_certificates_that_are_ordered(tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "one.pem")
    issued.private_key_pem.write_to_path(tmp_path / "one.key")
    routes = """
routes:
  - {path: /a, host: [www.example.com, api.example.com], respond: 204}
  - {path: /b, host: ['*.shop.example', a.shop.example, 127.0.0.1, '[::1]'], respond: 204}
  - {path: /c, host: www.example.com, respond: 204}
  - {path: /d, respond: 204}
"""
    files = "certificates: [{names: ['*.shop.example'], certificate: one.pem, key: one.key}]"
    found = inspect_text(f"tls: {{auto: true, {files}}}{routes}", folder=tmp_path)
    assert found.config is not None and found.errors == ()
    assert found.config.ordered_names == ("www.example.com", "api.example.com")
    assert found.config.certificates_folder == tmp_path / ".passerelle" / "certificates"
    listed = f"state: kept\ntls: {{auto: {{names: [b.example, B.Example.]}}}}{routes}"
    found = inspect_text(listed, folder=tmp_path)
    assert found.config is not None and found.config.ordered_names == ("b.example",)
    assert found.config.certificates_folder == tmp_path / "kept" / "certificates"
    both = f"tls: {{auto: {{names: one.example}}, {files.replace('*.shop.example', 'one.example')}}}{routes}"
    [error] = inspect_text(both, folder=tmp_path).errors
    assert str(error).endswith("tls.auto.names: found 'one.example', for which tls.certificates has a file")
    many = "tls: auto\nroutes:\n" + "".join(
        f"  - {{path: /{i}, host: h{i}.example, respond: 204}}\n" for i in range(101)
    )
    assert [error.message for error in inspect_text(many).errors] == [
        "the routes have 101 hosts; at most 100 are ordered"
    ]
    missing = inspect_text(f"tls: {{auto: {{directory_ca: missing.pem}}}}{routes}".replace("'*.shop.example', ", ""))
    assert [error.message for error in missing.errors] == ["cannot read missing.pem: No such file or directory"]


def test_the_packages_that_orders_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_tls, "find_spec", lambda name: None if name == "acme" else find_spec(name))
    report = inspect_text("tls: auto\nroutes: [{path: /, host: a.example, respond: 204}]\n")
    assert [error.message for error in report.errors] == ["auto needs acme: pip install 'passerelle[acme]'"]
