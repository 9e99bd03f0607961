"""Listeners from those of the servers of nginx, of which passerelle has one list for all routes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from passerelle.importing.nginx_tree import Directive
from passerelle.importing.nginx_values import listen_address, refuses

_TO_HTTPS = re.compile(r"https://([^/]+)(?:\$request_uri|\$uri(?:\$is_args\$args)?)").fullmatch
_HOSTS = ("$host", "$http_host", "$server_name")


@dataclass(frozen=True, slots=True)
class Listener:
    """An address with or without TLS; ``https_redirect`` is the status of one that redirects all requests."""

    address: str
    is_tls: bool
    https_redirect: int | None = None


def listeners_of(server: Directive) -> list[Listener]:
    """Return the listeners of a server, in the order of the file, without those of HTTP/3."""
    own = [each for each in server.block or [] if each.name == "listen" and each.args]
    found: dict[str, Listener] = {}
    for each in own:
        address = listen_address(each.args[0])
        if address is not None and "quic" not in each.args:
            is_tls = "ssl" in each.args or address.endswith(":443")
            found.setdefault(address, Listener(address, is_tls))
    return list(found.values()) if own else [Listener("0.0.0.0:80", is_tls=False)]


def document_of(listeners: Sequence[Listener]) -> Any:
    """Return `listen` as the configuration has it."""
    has_tls = any(each.is_tls for each in listeners)
    found: list[Any] = []
    for each in listeners:
        if each.https_redirect is not None:
            found.append({"address": each.address, "https_redirect": each.https_redirect})
        elif has_tls and not each.is_tls:
            found.append({"address": each.address, "tls": False})
        else:
            found.append(each.address)
    return found[0] if len(found) == 1 and isinstance(found[0], str) else found


def redirects_to_https(server: Directive, hosts: Sequence[str]) -> int | None:
    """Return the status with which a server redirects all requests to https; None if it does anything else.

    Files for the challenges of certificate authorities are no exception, as such requests are never redirected, and
    neither are locations that refuse requests: they are redirected to where others refuse them.
    """
    block = server.block or []
    whole = [each for each in block if each.name == "location" and each.args in (["/"], ["^~", "/"])]
    for inner in (*(each.block or [] for each in whole), block):
        for returned in _returns(inner):
            status = _status(returned, hosts)
            if status is not None:
                others = [each for each in block if each.name == "location" and each not in whole]
                return status if all(_is_challenge(each) or refuses(each) for each in others) else None
    return None


def _returns(block: Sequence[Directive]) -> Iterator[Directive]:
    """Return the redirects of a block. Those of `if` are for hosts that the server has; the rest is refused."""
    for each in block:
        if each.name == "return":
            yield each
        elif each.name == "if" and each.args[:1] in (["$host"], ["$scheme"]):
            yield from (inner for inner in each.block or [] if inner.name == "return")


def _status(returned: Directive, hosts: Sequence[str]) -> int | None:
    match = _TO_HTTPS(returned.args[-1]) if returned.args else None
    if match is None or returned.args[0] not in ("301", "308"):
        return None
    return int(returned.args[0]) if match[1] in (*_HOSTS, *hosts) else None


def _is_challenge(location: Directive) -> bool:
    return location.args[-1].strip("^~/\\").startswith(".well-known/acme-challenge")
