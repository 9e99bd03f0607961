"""Authorization requests to a service (``forward_auth``), and the meaning of its responses."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Fields, Response
from passerelle.http1.head import ResponseHead
from passerelle.security.addresses import Proxies
from passerelle.security.forward_auth import ForwardAuth, Verdict, VerdictCallback
from passerelle.security.guard import GuardedCall
from passerelle.security.header_rules import WithheldFields
from passerelle.security.identity import Identity
from passerelle.upstream.request_headers import VIA
from passerelle.upstream.subrequest import Subrequest

# The fields of a refusal that are relayed to the client.
_RELAYED = {
    b"cache-control": b"Cache-Control",
    b"content-language": b"Content-Language",
    b"content-type": b"Content-Type",
    b"location": b"Location",
    b"retry-after": b"Retry-After",
    b"set-cookie": b"Set-Cookie",
    b"www-authenticate": b"WWW-Authenticate",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_AGE = re.compile(rb"(?:^|[\s,])max-age=([0-9]{1,9})(?:[\s,]|$)")
_UNCACHEABLE = re.compile(rb"(?:^|[\s,])(?:no-store|no-cache)(?:[\s,=]|$)")
# The least time between two logs of a failure of the service (seconds).
QUIET = 10.0

_log = logging.getLogger("passerelle")


@dataclass(frozen=True, slots=True)
class ForwardAuthSettings:
    """How one route asks a service whether a request may pass.

    ``service`` is its name, for the log. ``cache_seconds`` is how long a verdict is reused, None for not at all.
    ``cache_by`` lists what two requests must have in common to share a verdict: ``address``, ``host``, ``method``,
    ``uri`` or ``header:NAME``. If it is empty, that is every field that the service receives. ``consumer`` is the field
    that names the consumer.
    """

    service: str
    path: str
    send_headers: tuple[str, ...]
    copy_headers: tuple[str, ...]
    consumer: str | None
    open_on_failure: bool
    cache_seconds: float | None
    cache_by: tuple[str, ...]


def forward_auth(
    settings: ForwardAuthSettings,
    subrequest: Subrequest,
    proxies: Proxies,
    label: str,
    count: Callable[[str, str], None],
    withheld: WithheldFields | None = None,
) -> ForwardAuth:
    """Create the guard of the route called ``label``, which sends its requests with ``subrequest``.

    ``count`` is called with the outcome of each request. Authorization requests do not carry the ``withheld`` fields.
    """
    requester = _AuthRequester(settings, subrequest, proxies, withheld)
    key: Callable[[GuardedCall], bytes] | None = None
    if settings.cache_seconds is not None:
        key = requester.key_of(settings.cache_by) if settings.cache_by else requester.full_key
    copied = {name.lower().replace("_", "-").encode("ascii") for name in settings.copy_headers}
    return ForwardAuth(
        requester.request,
        copied,
        key,
        clock=time.monotonic,
        open_on_failure=settings.open_on_failure,
        failed=_FailureLog(label, settings).record,
        count=count,
    )


class _AuthRequester:
    """Sends the authorization requests of one route."""

    def __init__(
        self,
        settings: ForwardAuthSettings,
        subrequest: Subrequest,
        proxies: Proxies,
        withheld: WithheldFields | None,
    ) -> None:
        self._withheld = withheld
        self._subrequest = subrequest
        self._proxies = proxies
        self._path = settings.path.encode("ascii")
        self._sent = frozenset(name.lower().encode("ascii") for name in settings.send_headers)
        copied = frozenset(name.lower().encode("ascii") for name in settings.copy_headers)
        self._copied = copied - {b"set-cookie"}
        self._sets_cookies = b"set-cookie" in copied
        self._consumer = settings.consumer.lower().encode("ascii") if settings.consumer is not None else None
        self._seconds = settings.cache_seconds or 0.0

    def request(self, call: GuardedCall, done: VerdictCallback) -> None:
        """Send the authorization request for ``call``; ``done`` is called within the timeout of the subrequest."""

        def on_success(head: ResponseHead, body: bytes) -> None:
            try:
                verdict: Verdict | Failure = self._verdict(head, body)
            except Failure as failure:
                verdict = failure
            done(verdict)

        message = b"GET %b HTTP/1.1\r\n%bX-Request-Id: %b\r\n%b\r\n" % (
            self._path,
            self._header_lines(call),
            call.request_id,
            call.trace_lines,
        )
        self._subrequest.request(message, perf_counter(), on_success, done, b"GET").start()

    def full_key(self, call: GuardedCall) -> bytes:
        """Return the key of a verdict that is reused where all fields of the authorization request are the same."""
        return blake2b(self._header_lines(call), digest_size=16).digest()

    def key_of(self, names: tuple[str, ...]) -> Callable[[GuardedCall], bytes]:
        """Return the key function for ``cache_by``, which always includes the identity found by earlier guards."""
        fields = [name.removeprefix("header:").lower().encode("ascii") for name in names if name.startswith("header:")]

        def key(call: GuardedCall) -> bytes:
            parts = [call.upstream_fields]
            for name in ("address", "host", "method", "uri"):
                if name in names:
                    parts.append(self._forwarded_values(call)[name])
            for field in fields:
                values = [line.value for line in call.lines(field)]
                parts += [b"%d" % len(values), *values]
            return blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).digest()

        return key

    def _forwarded_values(self, call: GuardedCall) -> dict[str, bytes]:
        trusted = self._proxies.trusts(call.peer)
        host = call.get(b"x-forwarded-host") if trusted else None
        proto = call.get(b"x-forwarded-proto") if trusted else None
        return {
            "address": call.address,
            "host": host or call.get(b"host") or b"",
            "method": call.method,
            "proto": proto or call.scheme,
            "uri": call.path + call.query,
        }

    def _header_lines(self, call: GuardedCall) -> bytes:
        """Return the field lines of the authorization request: those about the request, then copied ones."""
        values = self._forwarded_values(call)
        lines = b"".join(b"%b\r\n" % field.line for field in call.fields if field.name in self._sent)
        if self._withheld is not None:
            lines = self._withheld.apply(lines)
        return (
            b"Host: %b\r\n%bX-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Method: %b\r\n"
            b"X-Forwarded-Proto: %b\r\nX-Forwarded-Uri: %b\r\nAccept-Encoding: identity\r\n%b"
        ) % (
            call.get(b"host") or b"",
            VIA,
            values["address"],
            values["host"],
            values["method"],
            values["proto"],
            values["uri"],
            # Without the gateway's own credentials, with the identity that earlier guards have established.
            call.upstream_section(lines),
        )

    def _verdict(self, head: ResponseHead, body: bytes) -> Verdict:
        status = head.status
        if 200 <= status < 300:
            lines = b"".join(b"%b\r\n" % field.line for field in head.lines if field.name in self._copied)
            cookies = b""
            if self._sets_cookies:
                cookies = b"".join(b"%b\r\n" % field.line for field in head.lines if field.name == b"set-cookie")
            return Verdict(None, lines, self._identity(head), self._lifetime(head), cookies)
        if status in (401, 403) or status in _REDIRECTS:
            fields: Fields = [(_RELAYED[f.name], f.value) for f in head.lines if f.name in _RELAYED]
            if head.get(b"cache-control") is None:
                fields.append((b"Cache-Control", b"no-store"))
            seconds = self._lifetime(head) if status in (401, 403) else 0.0
            return Verdict(Response(status, fields, body), seconds=seconds)
        raise Failure(Kind.BAD_RESPONSE, f"status {status} in response to an authorization request")

    def _identity(self, head: ResponseHead) -> Identity | None:
        if self._consumer is None:
            return None
        name = head.get(self._consumer)
        if not name:
            raise Failure(Kind.BAD_RESPONSE, f"no {self._consumer.decode()}, which names the consumer, in the response")
        try:
            return Identity(name.decode("latin-1"), (), "forward")
        except ValueError as error:
            raise Failure(Kind.BAD_RESPONSE, str(error)) from None

    def _lifetime(self, head: ResponseHead) -> float:
        """Return how long the verdict may be reused (seconds): not at all where it sets a cookie."""
        seconds = self._seconds
        if not seconds or head.get(b"set-cookie") is not None:
            return 0.0
        control = b",".join(f.value for f in head.lines if f.name == b"cache-control").lower()
        if _UNCACHEABLE.search(control):
            return 0.0
        limit = _MAX_AGE.search(control)
        return min(seconds, float(limit[1])) if limit is not None else seconds


class _FailureLog:
    """Logs failures of the service, at most once in :data:`QUIET` seconds."""

    def __init__(self, label: str, settings: ForwardAuthSettings) -> None:
        self._label = label
        self._settings = settings
        self._logged = -QUIET

    def record(self, failure: Failure) -> None:
        """Log the failure of an authorization request."""
        now = time.monotonic()
        if now - self._logged >= QUIET:
            self._logged = now
            settings = self._settings
            effect = "requests pass" if settings.open_on_failure else "503"
            _log.warning(
                "forward_auth of %s: %s does not respond (%s): %s", self._label, settings.service, failure, effect
            )
