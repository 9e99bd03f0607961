"""Asking a service whether a request may pass: the question, and what its answer means."""

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
from passerelle.security.identity import Identity
from passerelle.upstream.request_headers import VIA
from passerelle.upstream.subrequest import Subrequest

# What a client is told of a refusal, beside its body: why, where to go, and what to bring.
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
_NOT_KEPT = re.compile(rb"(?:^|[\s,])(?:no-store|no-cache)(?:[\s,=]|$)")
# How often it is said that nobody answers (seconds).
QUIET = 10.0

_log = logging.getLogger("passerelle")


@dataclass(frozen=True, slots=True)
class ForwardAuthSettings:
    """How one route asks a service whether a request may pass.

    ``service`` is its name, for the log. ``cache_seconds`` is how long a verdict is reused, None for not at all;
    ``cache_by`` names what makes two requests the same (``address``, ``host``, ``method``, ``uri``, ``header:NAME``),
    where empty is every field that the service receives. ``consumer`` is the field that names the consumer.
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
) -> ForwardAuth:
    """The guard of the route called ``label``, asking by ``subrequest``; ``count`` hears what becomes of each
    request."""
    requester = _AuthRequester(settings, subrequest, proxies)
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
    """Puts the questions of one route."""

    def __init__(self, settings: ForwardAuthSettings, subrequest: Subrequest, proxies: Proxies) -> None:
        self._subrequest = subrequest
        self._proxies = proxies
        self._path = settings.path.encode("ascii")
        self._sent = frozenset(name.lower().encode("ascii") for name in settings.send_headers)
        self._copied = frozenset(name.lower().encode("ascii") for name in settings.copy_headers)
        self._consumer = settings.consumer.lower().encode("ascii") if settings.consumer is not None else None
        self._seconds = settings.cache_seconds or 0.0

    def request(self, call: GuardedCall, done: VerdictCallback) -> None:
        """Ask; ``done`` hears of the end within the time that the leg gives."""

        def on_success(head: ResponseHead, body: bytes) -> None:
            try:
                verdict: Verdict | Failure = self._verdict(head, body)
            except Failure as failure:
                verdict = failure
            done(verdict)

        message = b"GET %b HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (
            self._path,
            self._header_lines(call),
            call.request_id,
        )
        self._subrequest.request(message, perf_counter(), on_success, done, b"GET").start()

    def full_key(self, call: GuardedCall) -> bytes:
        """The same question: all that is told is the same."""
        return blake2b(self._header_lines(call), digest_size=16).digest()

    def key_of(self, names: tuple[str, ...]) -> Callable[[GuardedCall], bytes]:
        """What makes a question the same by configuration, and in any case who has been found to ask."""
        fields = [name.removeprefix("header:").lower().encode("ascii") for name in names if name.startswith("header:")]

        def key(call: GuardedCall) -> bytes:
            parts = [call.upstream_fields]
            for name in ("address", "host", "method", "uri"):
                if name in names:
                    parts.append(self._request_facts(call)[name])
            for field in fields:
                values = [line.value for line in call.lines(field)]
                parts += [b"%d" % len(values), *values]
            return blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), digest_size=16).digest()

        return key

    def _request_facts(self, call: GuardedCall) -> dict[str, bytes]:
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
        """The field lines of the question: about the request, then those of the client that the service is told."""
        facts = self._request_facts(call)
        lines = b"".join(b"%b\r\n" % field.line for field in call.fields if field.name in self._sent)
        return (
            b"Host: %b\r\n%bX-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Method: %b\r\n"
            b"X-Forwarded-Proto: %b\r\nX-Forwarded-Uri: %b\r\nAccept-Encoding: identity\r\n%b"
        ) % (
            call.get(b"host") or b"",
            VIA,
            facts["address"],
            facts["host"],
            facts["method"],
            facts["proto"],
            facts["uri"],
            call.upstream_section(
                lines
            ),  # without the gateway's own credentials, and with whom other guards have found
        )

    def _verdict(self, head: ResponseHead, body: bytes) -> Verdict:
        status = head.status
        if 200 <= status < 300:
            lines = b"".join(b"%b\r\n" % field.line for field in head.lines if field.name in self._copied)
            return Verdict(None, lines, self._identity(head), self._lifetime(head))
        if status in (401, 403) or status in _REDIRECTS:
            fields: Fields = [(_RELAYED[f.name], f.value) for f in head.lines if f.name in _RELAYED]
            if head.get(b"cache-control") is None:
                fields.append((b"Cache-Control", b"no-store"))
            seconds = self._lifetime(head) if status in (401, 403) else 0.0
            return Verdict(Response(status, fields, body), seconds=seconds)
        raise Failure(Kind.BAD_RESPONSE, f"status {status} to the question whether a request may pass")

    def _identity(self, head: ResponseHead) -> Identity | None:
        if self._consumer is None:
            return None
        name = head.get(self._consumer)
        if not name:
            raise Failure(Kind.BAD_RESPONSE, f"no {self._consumer.decode()} in the answer, which names the consumer")
        try:
            return Identity(name.decode("latin-1"), (), "forward")
        except ValueError as error:
            raise Failure(Kind.BAD_RESPONSE, str(error)) from None

    def _lifetime(self, head: ResponseHead) -> float:
        """How long the answer holds for others and later (seconds): not one with a cookie for one client."""
        seconds = self._seconds
        if not seconds or head.get(b"set-cookie") is not None:
            return 0.0
        control = b",".join(f.value for f in head.lines if f.name == b"cache-control").lower()
        if _NOT_KEPT.search(control):
            return 0.0
        limit = _MAX_AGE.search(control)
        return min(seconds, float(limit[1])) if limit is not None else seconds


class _FailureLog:
    """Says in the log of the process that nobody answers, now and then."""

    def __init__(self, label: str, settings: ForwardAuthSettings) -> None:
        self._label = label
        self._settings = settings
        self._said = -QUIET

    def record(self, failure: Failure) -> None:
        """A question was not answered."""
        now = time.monotonic()
        if now - self._said >= QUIET:
            self._said = now
            settings = self._settings
            fate = "requests pass" if settings.open_on_failure else "503"
            _log.warning(
                "forward_auth of %s: %s does not answer (%s): %s", self._label, settings.service, failure, fate
            )
