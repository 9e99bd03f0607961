"""Logins in progress: what the browser must bring back from the provider (RFC 9700 §2.1.1, §4.7.1).

State, nonce and code verifier are random for each login, and are kept in a cookie of the browser that began it, sealed
with a key that only the gateways have. The gateway stores nothing, so that no client can fill its memory, and any
worker can end the login. A browser has at most :data:`SLOTS` such cookies; another login replaces one of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from passerelle.security.cookies import set_line, values
from passerelle.security.guard import GuardedCall

SLOTS: Final = 8
"""Maximum number of logins of one browser."""
LIFETIME: Final = 600
"""How long a login may take (seconds)."""
LONGEST_PATH: Final = 1024
"""A longer path is not remembered: the login ends at ``/``."""

# Visible ASCII; neither "//host" nor "/\\host", which browsers take for another host.
_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*").fullmatch
_STATE = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch
_NONCE_OCTETS = 12


def is_own_path(path: str) -> bool:
    """Return whether ``path`` is one of this host, also as browsers read it."""
    return len(path) <= LONGEST_PATH and _OWN_PATH(path) is not None


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A login in progress. ``path`` is where it ends, ``expires`` is in seconds since the epoch."""

    state: str
    nonce: str
    verifier: str
    path: str
    expires: float

    @classmethod
    def begin(cls, path: str, now: float) -> PendingLogin:
        """Begin a login that ends at ``path``."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, path if is_own_path(path) else "/", now + LIFETIME)

    @property
    def challenge(self) -> str:
        """The code challenge by S256 (RFC 7636 §4.2)."""
        digest = hashlib.sha256(self.verifier.encode("ascii")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    def url(self, endpoint: str, client: str, redirect: str, scopes: str) -> str:
        """Return the address of the authorization request (OpenID Connect Core 1.0 §3.1.2.1)."""
        parameters = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": redirect,
            "scope": scopes,
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": self.challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"


class LoginCookies:
    """The cookies of logins in progress, sealed with a key that is derived from ``secret``."""

    def __init__(self, secret: str, *, secure: bool) -> None:
        key = hashlib.blake2b(b"passerelle login", key=hashlib.sha256(secret.encode()).digest(), digest_size=32)
        self._cipher = AESGCM(key.digest())
        self._secure = secure
        prefix = "__Host-" if secure else ""
        self.names = tuple(f"{prefix}passerelle-login-{slot}".encode("ascii") for slot in range(SLOTS))

    def set_line(self, login: PendingLogin) -> bytes:
        """Return the line that sets the cookie of ``login``."""
        name = self._name(login.state)
        document = orjson.dumps([login.state, login.nonce, login.verifier, login.path, login.expires])
        nonce = os.urandom(_NONCE_OCTETS)
        value = base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, document, name)).rstrip(b"=")
        return set_line(name, value, secure=self._secure, scripts=False, seconds=LIFETIME)

    def clear_line(self, state: str) -> bytes:
        """Return the line that deletes the cookie of the login with this state."""
        return set_line(self._name(state), b"", secure=self._secure, scripts=False, seconds=0)

    def find(self, call: GuardedCall, state: str, now: float) -> PendingLogin | None:
        """Return the login with this state that the browser of ``call`` began, or None."""
        if not _STATE(state):
            return None
        name = self._name(state)
        for value in values(call, name)[:SLOTS]:
            login = self._open(name, value)
            if login is not None and hmac.compare_digest(login.state, state) and now < login.expires:
                return login
        return None

    def _open(self, name: bytes, value: bytes) -> PendingLogin | None:
        try:
            data = base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))
            document = self._cipher.decrypt(data[:_NONCE_OCTETS], data[_NONCE_OCTETS:], name)
        except (ValueError, InvalidTag):
            return None
        return PendingLogin(*orjson.loads(document))

    def _name(self, state: str) -> bytes:
        return self.names[hashlib.sha256(state.encode()).digest()[0] % SLOTS]
