"""Checks of TLS: files that are missing, that have the wrong content, or that do not belong together."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from passerelle.config.checks.files import unreadable
from passerelle.config.models.automatic_tls import MOST_NAMES
from passerelle.config.models.base import given
from passerelle.config.models.config import Service
from passerelle.config.models.tls import ListenerTls
from passerelle.config.problems import Finding, Loc

SOON: Final = timedelta(days=7)


def listener_errors(tls: ListenerTls) -> Iterator[Finding]:
    """Check the top-level ``tls``."""
    if tls.pair is not None:
        yield from _pair(("tls",), *tls.pair)
    seen: dict[str, int] = {}
    for index, each in enumerate(tls.certificates):
        loc: Loc = ("tls", "certificates", index)
        yield from _pair(loc, each.certificate, each.key)
        for place, name in enumerate(each.names):
            first = seen.setdefault(name, index)
            if first != index or name in each.names[:place]:
                yield Finding((*loc, "names", place), f"found {name!r} again; it is in tls.certificates[{first}]")
    if tls.client_ca is not None:
        yield from _authorities(("tls", "client_ca"), tls.client_ca)
    elif "client" in given(tls):
        yield Finding(("tls", "client"), "found without client_ca, which certificates are verified against")


def order_errors(tls: ListenerTls, hosts: Sequence[tuple[Loc, str]]) -> Iterator[Finding]:
    """Check ``tls.auto`` with the ``hosts`` of routes, each with its place."""
    auto = tls.auto
    if auto is None:
        return
    loc: Loc = ("tls", "auto")
    missing = [name for name in ("acme", "josepy") if find_spec(name) is None]
    if missing:
        yield Finding(loc, f"auto needs {' and '.join(missing)}: pip install 'passerelle[acme]'", at_key=True)
    if auto.directory_ca is not None:
        yield from _authorities((*loc, "directory_ca"), auto.directory_ca)
    covered = {name for each in tls.certificates for name in each.names}
    names = auto.ordered((host for _, host in hosts), covered)
    if auto.names is not None:
        for index, name in enumerate(auto.names):
            if name in covered:
                place = (*loc, "names", index) if len(auto.names) > 1 else (*loc, "names")
                yield Finding(place, f"found {name!r}, for which tls.certificates has a file")
        return
    wildcards = {host: place for place, host in hosts if host.startswith("*.") and host not in covered}
    for host, place in wildcards.items():
        message = f"found {host!r} with tls.auto; a certificate for a wildcard needs DNS-01, which passerelle does not "
        yield Finding(place, message + "have: add its file to tls.certificates, or list the names in tls.auto.names")
    if not names and not wildcards:
        yield Finding(loc, "found without names, and no route has a host to order a certificate for", at_key=True)
    elif len(names) > MOST_NAMES:
        yield Finding(loc, f"the routes have {len(names)} hosts; at most {MOST_NAMES} are ordered", at_key=True)


def listener_warnings(tls: ListenerTls, now: datetime) -> Iterator[Finding]:
    """Find certificates that are not valid, or expire soon."""
    if tls.pair is not None:
        yield from _times(("tls", "certificate"), tls.pair[0], now)
    for index, each in enumerate(tls.certificates):
        yield from _times(("tls", "certificates", index, "certificate"), each.certificate, now)


def service_errors(name: str, service: Service) -> Iterator[Finding]:
    """Check ``tls`` of the service called ``name``."""
    tls = service.tls
    if tls is None:
        return
    loc: Loc = ("services", name, "tls")
    if not any(target.url is not None and target.url.secure for target in service.all_targets):
        yield Finding(loc, "found without an https:// target; it applies to those only", at_key=True)
    if tls.certificate is not None and tls.key is not None:
        yield from _pair(loc, tls.certificate, tls.key)
    elif tls.certificate is not None:
        yield Finding((*loc, "certificate"), "found without key; a certificate is of no use without its key")
    elif tls.key is not None:
        yield Finding((*loc, "key"), "found without certificate; a key is of no use without its certificate")
    if tls.ca is not None and not tls.verify:
        yield Finding((*loc, "ca"), "found together with verify: false, which disables verification")
    elif tls.ca is not None:
        yield from _authorities((*loc, "ca"), tls.ca)


def service_warnings(name: str, service: Service, now: datetime) -> Iterator[Finding]:
    """Find insecure settings, and certificates that are not valid or expire soon."""
    if service.tls is not None and not service.tls.verify:
        yield Finding(("services", name, "tls", "verify"), "anyone on the network path can read and change everything")
    if service.tls is not None and service.tls.certificate is not None:
        yield from _times(("services", name, "tls", "certificate"), service.tls.certificate, now)


def _times(loc: Loc, path: Path, now: datetime) -> Iterator[Finding]:
    """Check the validity period of a certificate that was read before."""
    from cryptography import x509  # the import takes 0.1 s, and most files have no certificate

    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        start, end = found.not_valid_before_utc, found.not_valid_after_utc
    except (OSError, ValueError):
        return
    if now >= end:
        yield Finding(loc, f"{path} has expired: it was valid until {end:%Y-%m-%d %H:%M} UTC")
    elif now < start:
        yield Finding(loc, f"{path} is not valid yet: it is valid from {start:%Y-%m-%d %H:%M} UTC")
    elif end - now < SOON:
        yield Finding(loc, f"{path} expires soon: it is valid until {end:%Y-%m-%d %H:%M} UTC")


def _authorities(loc: Loc, path: Path) -> Iterator[Finding]:
    finding = unreadable(loc, path)
    if finding is None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            finding = Finding(loc, f"{path} contains no certificate in PEM")
    if finding is not None:
        yield finding


def _pair(loc: Loc, certificate: Path, key: Path) -> Iterator[Finding]:
    """Check a certificate and its key."""
    place = (*loc, "certificate"), (*loc, "key")
    missing = [f for f in (unreadable(place[0], certificate), unreadable(place[1], key)) if f is not None]
    if missing:
        yield from missing
        return
    broken = list(_authorities(place[0], certificate))
    if broken:
        yield from broken
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
    except Encrypted:
        yield Finding(place[1], f"{key} is encrypted; a gateway that starts by itself cannot ask for a password")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield Finding(place[1], f"{key} is not the key of {certificate}")
        elif error.reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
            yield Finding(place[0], f"{certificate} is too weak ({error.reason.lower().replace('_', ' ')})")
        else:
            yield Finding(place[1], f"{key} contains no private key in PEM")


class Encrypted(Exception):
    """Raised for a key that needs a password."""


def _no_password() -> str:
    raise Encrypted
