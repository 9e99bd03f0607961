"""Who may use the admin port: tokens, cookies, and the protection against pages of other origins.

By DNS rebinding, a page in a browser can send requests to the admin port under a name that resolves to its address, and
then has the same origin as the admin port. So ``Host`` must be an address or a known name, unless the request carries
the token in ``Authorization``, which no page of another origin can know. ``Origin`` and ``Sec-Fetch-Site`` must not
name another origin.

On a loopback address without a token, changes need the header field ``Passerelle-Admin``: a page can send a POST to any
address, but no header field of its own unless CORS allows it (Fetch §3.2.2).
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from passerelle.config.models.admin import AdminPort
from passerelle.http.messages import Fields
from passerelle.http1.head import RequestHead

SESSION_SECONDS = 12 * 3600
_CHALLENGE: Fields = [(b"WWW-Authenticate", b'Bearer realm="passerelle admin port"')]


class AdminRequest(NamedTuple):
    """What the decision depends on. ``is_change`` states whether the request changes something."""

    peer: bytes
    local: bool
    method: bytes
    path: bytes
    head: RequestHead
    is_change: bool


class Client(NamedTuple):
    """The client of an admitted request: ``token``, ``session``, ``local`` or ``open``, and its address."""

    by: str
    address: str


class AccessRefused(Exception):
    """The request is refused with ``status``, ``text`` and ``fields``."""

    def __init__(self, status: int, text: str, fields: Fields | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.fields = fields or []


class AdminAccess:
    """The rules for one admin port, which is bound to ``host``:``port``. ``clock`` returns seconds since 1970."""

    def __init__(self, settings: AdminPort, host: str, port: int, clock: Callable[[], float] = time.time) -> None:
        self.cookie = b"passerelle_admin_%d" % port  # browsers send a cookie to all ports of a host
        self._loopback = ipaddress.ip_address(host).is_loopback
        self._token = settings.token.encode("ascii") if settings.token is not None else None
        self._key = sha256(b"passerelle session of the admin port\0" + (self._token or b"")).digest()
        self._open = frozenset(b"/" + name.encode() for name in settings.open)
        self._hosts = frozenset((*settings.hosts, settings.listen.host.lower()))
        self._clock = clock

    def admit(self, request: AdminRequest) -> Client:
        """Return the client of an admitted request. :raises AccessRefused: for all others."""
        head, address = request.head, request.peer.decode("ascii", "replace")
        bearer = self._bearer(head)
        self.check_origin(request)
        if bearer:
            return Client("token", address)
        if request.path in self._open and not request.is_change:
            return Client("open", address)
        if self._session(head):
            if request.is_change and head.get(b"passerelle-admin") is None:
                raise AccessRefused(403, "changes need the header field Passerelle-Admin")
            return Client("session", address)
        if self._loopback and not request.is_change:
            return Client("local", address)
        if self._token is not None or not self._loopback:
            raise self._unauthorized()
        if not request.local:
            raise AccessRefused(403, "changes are accepted from this machine only, at 127.0.0.1")
        if head.get(b"passerelle-admin") is None:
            raise AccessRefused(403, "changes need the header field Passerelle-Admin and no foreign Origin")
        return Client("local", address)

    def may_change(self, request: AdminRequest, client: Client) -> bool:
        """Whether ``client``, which ``request`` was admitted for, may make changes with ``Passerelle-Admin``."""
        return client.by in ("token", "session") or (self._token is None and client.by == "local" and request.local)

    def _unauthorized(self) -> AccessRefused:
        if self._token is None:
            text = "other machines can reach this admin port, and it has no token: set admin.token in the configuration"
            return AccessRefused(403, text)
        text = "this needs the token of the admin port: Authorization: Bearer TOKEN"
        return AccessRefused(
            401, f"{text}; commands take it from --admin-token-file or PASSERELLE_ADMIN_TOKEN", _CHALLENGE
        )

    # Other origins

    def check_origin(self, request: AdminRequest) -> None:
        """Check ``Host``, ``Origin`` and ``Sec-Fetch-Site``. :raises AccessRefused: for a page of another origin."""
        head = request.head
        authority, host = ((name or b"").decode("latin-1").lower() for name in (head.authority, head.host))
        origin = head.get(b"origin")
        own = (f"http://{authority}", f"https://{authority}")
        if origin is not None and origin.decode("latin-1").lower() not in own:
            raise AccessRefused(403, "requests of pages of another origin are refused")
        if head.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not self._is_navigation(request):
            raise AccessRefused(403, "requests of pages of another origin are refused")
        if self._is_known(host) or self._bearer(head):
            return
        if self._loopback:
            text = "the admin port serves this machine only: use the host localhost, or add a name to admin.hosts"
        else:
            text = "this host name is unknown: use the address, or add the name to admin.hosts"
        raise AccessRefused(403 if request.is_change else 421, text)

    @staticmethod
    def _is_navigation(request: AdminRequest) -> bool:
        """Whether the user follows a link of another page, which does not see the response."""
        mode, destination = (request.head.get(name) for name in (b"sec-fetch-mode", b"sec-fetch-dest"))
        return request.method == b"GET" and mode == b"navigate" and destination == b"document"

    def _is_known(self, host: str) -> bool:
        name = host_name(host)
        if is_loopback(host) or name in self._hosts:
            return True
        if self._loopback:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    # Credentials

    def _bearer(self, head: RequestHead) -> bool:
        """Whether the request carries the token in ``Authorization`` (RFC 6750 §2.1)."""
        scheme, _, given = (head.get(b"authorization") or b"").partition(b" ")
        return scheme.lower() == b"bearer" and self.is_token(given.strip(b" "))

    def is_token(self, given: bytes) -> bool:
        """Whether ``given`` is the token; the time of the comparison does not depend on where they differ."""
        return self._token is not None and hmac.compare_digest(sha256(given).digest(), sha256(self._token).digest())

    def set_cookie(self, given: bytes, *, secure: bool) -> bytes | None:
        """Return the ``Set-Cookie`` value of a new session for the token ``given``; None if the token is wrong.

        The cookie has the time at which it expires and an authentication code of it, and so needs no memory.
        """
        if not self.is_token(given):
            return None
        payload = b"%d.%b" % (int(self._clock()) + SESSION_SECONDS, secrets.token_hex(16).encode())
        value = b"%b.%b" % (payload, self._code(payload))
        return self._cookie_line(value, SESSION_SECONDS, secure)

    def clear_cookie(self) -> bytes:
        """Return the ``Set-Cookie`` value that ends a session in the browser."""
        return self._cookie_line(b"", 0, False)

    def _cookie_line(self, value: bytes, seconds: int, secure: bool) -> bytes:
        line = b"%b=%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict" % (self.cookie, value, seconds)
        return line + b"; Secure" if secure else line

    def _session(self, head: RequestHead) -> bool:
        if self._token is None:
            return False
        for line in (field.value for field in head.named(b"cookie")):
            for pair in line.split(b";"):
                name, _, value = pair.strip().partition(b"=")
                if name == self.cookie and self._is_session(value):
                    return True
        return False

    def _is_session(self, value: bytes) -> bool:
        payload, _, code = value.rpartition(b".")
        expires = payload.partition(b".")[0]
        if not hmac.compare_digest(self._code(payload), code) or not expires.isdigit():
            return False
        return int(expires) > self._clock()

    def _code(self, payload: bytes) -> bytes:
        return hmac.new(self._key, payload, sha256).hexdigest().encode()


def host_name(host: str) -> str:
    """Return the name or address in the value of a Host header field, in lower case, without port and brackets."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or not port.isdigit():
        name = host.lower()
    return name.removeprefix("[").removesuffix("]").removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether the value of a Host header field is a loopback host: ``localhost``, 127.0.0.0/8 or ``[::1]``."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
