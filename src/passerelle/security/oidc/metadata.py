"""Metadata of a provider (OpenID Connect Discovery 1.0 §3, RFC 8414)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

_URL = re.compile(r"https?://[!-~]+").fullmatch
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Metadata(NamedTuple):
    """What the gateway uses. ``sends_issuer``: each response to an authorization request has ``iss`` (RFC 9207)."""

    authorization: str
    token: str
    jwks: str
    end_session: str | None
    sends_issuer: bool
    secret_in_body: bool


def is_secure(url: str) -> bool:
    """Return whether a URL is ``https://``, or that of this machine, and has no user name and no fragment."""
    if not _URL(url):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return (parts.scheme == "https" or host in _LOOPBACK) and bool(host) and "@" not in parts.netloc and "#" not in url


def parse_metadata(data: bytes, issuer: str) -> Metadata:
    """Parse the metadata of ``issuer``. Raises ValueError if it is that of another one, or lacks what is needed."""
    document = orjson.loads(data)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    if document.get("issuer") != issuer:
        raise ValueError("it names another issuer")
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        raise ValueError("the provider does not support PKCE with S256")
    accepted = document.get("token_endpoint_auth_methods_supported")
    in_body = isinstance(accepted, list) and "client_secret_basic" not in accepted and "client_secret_post" in accepted
    end_session = document.get("end_session_endpoint")
    return Metadata(
        _endpoint(document, "authorization_endpoint"),
        _endpoint(document, "token_endpoint"),
        _endpoint(document, "jwks_uri"),
        _endpoint(document, "end_session_endpoint") if end_session is not None else None,
        document.get("authorization_response_iss_parameter_supported") is True,
        in_body,
    )


def _endpoint(document: dict[str, Any], name: str) -> str:
    url = document.get(name)
    if not isinstance(url, str) or not is_secure(url):
        raise ValueError(f"{name} is not an https:// address")
    return url
