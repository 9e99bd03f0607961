"""What a route changes in the heads of its answers, on their way out: rules, security headers, CORS.

It is done where an answer leaves the exchange, behind the cache, compositions and compression, and for the gateway's
own errors too. So what is stored stays as it came, and no answer carries what was meant for another client.
"""

from __future__ import annotations

import re
from typing import Protocol

from passerelle.config.check_headers import security_of
from passerelle.config.headers import Cors as CorsSettings
from passerelle.config.headers import RequestHeaders, ResponseHeaders, SecurityHeaders
from passerelle.config.models import Config, Route
from passerelle.security.cors import Cors
from passerelle.security.field_rules import CarefulFields, RequestRules, lines_of

_ACCESS_CONTROL = (
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-allow-origin",
    b"access-control-allow-private-network",
    b"access-control-expose-headers",
    b"access-control-max-age",
)
_VARIES = re.compile(rb"\r\nvary:[^\r\n]*(?:(?<![\w-])origin(?![\w-])|\*)", re.IGNORECASE)


class Request(Protocol):
    """What of a request its answer may depend on; looked at only where it does."""

    @property
    def method(self) -> bytes:
        """The method."""

    @property
    def origin(self) -> bytes | None:
        """The origin of the page that a browser asks for, if it says so."""

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS."""


class Outgoing:
    """Changes the heads of a route's answers. ``strip`` names the fields that go, ``added`` are lines with CRLF."""

    __slots__ = ("_added", "_careful", "_strip", "cors")

    def __init__(self, strip: list[bytes], added: bytes, careful: CarefulFields | None, cors: Cors | None) -> None:
        self._strip = lines_of(strip) if strip else None
        self._added = added
        self._careful = careful
        self.cors = cors

    def edit(self, head: bytes, request: Request) -> bytes:
        """``head`` (status line and field lines, each with CRLF) as who sent ``request`` gets it."""
        if self._strip is not None:
            head = self._strip.sub(b"", head)
        head += self._added
        if self._careful is not None:
            head += self._careful.lines(head, request.secure)
        cors = self.cors
        if cors is not None:
            head += cors.lines(request.origin, request.method)
            if cors.vary and _VARIES.search(head) is None:
                head += b"Vary: Origin\r\n"
        return head


def outgoing(config: Config, route: Route | None, *, preflight: bool = False) -> Outgoing | None:
    """What ``config`` says of the answers of ``route`` (None: of requests that no route takes); None for nothing.

    ``preflight``: of those to preflights, which tell of CORS themselves.
    """
    careful = _careful(security_of(config, route))
    rules = route.response_headers if route is not None else None
    cors = _cors(route) if route is not None and not preflight else None
    if careful is None and rules is None and cors is None:
        return None
    strip: list[bytes] = list(_ACCESS_CONTROL) if cors is not None else []
    added = b""
    if rules is not None:
        strip += [name.encode("ascii") for name in (*rules.remove, *rules.set)]
        added = _lines(rules)
    if careful is not None and careful[1]:
        strip += careful[0].names
    return Outgoing(strip, added, careful[0] if careful is not None else None, cors)


def request_rules(settings: RequestHeaders | None) -> RequestRules | None:
    """What a route changes in the fields that services get, or None."""
    if settings is None:
        return None
    put = {name.encode("ascii"): value.encode("ascii") for name, value in settings.set.items()}
    add = {name.encode("ascii"): value.encode("ascii") for name, value in settings.add.items()}
    return RequestRules(put, add, [name.encode("ascii") for name in settings.remove])


def _lines(rules: ResponseHeaders) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in (*rules.set.items(), *rules.add.items())).encode("ascii")


def _careful(settings: SecurityHeaders | None) -> tuple[CarefulFields, bool] | None:
    """The fields, and whether they take the place of the service's."""
    if settings is None:
        return None
    said = (
        ("X-Content-Type-Options", settings.content_type_options),
        ("X-Frame-Options", settings.frame_options),
        ("Referrer-Policy", settings.referrer_policy),
        ("Cross-Origin-Opener-Policy", settings.opener_policy),
        ("Cross-Origin-Resource-Policy", settings.resource_policy),
        ("Content-Security-Policy", settings.content_security_policy),
        ("Permissions-Policy", settings.permissions_policy),
    )
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in said if value != "off"]
    hsts = None if settings.hsts == "off" else settings.hsts.encode("ascii")
    return CarefulFields(fields, hsts), settings.override


def _cors(route: Route) -> Cors | None:
    settings: CorsSettings | None = route.cors
    if settings is None:
        return None
    methods = route.accepted
    if settings.methods is not None:
        methods = frozenset(method.encode("ascii") for method in settings.methods)
    return Cors(
        [origin.encode("ascii") for origin in settings.origins],
        methods,
        None if "*" in settings.headers else [name.encode("ascii") for name in settings.headers],
        [name.encode("ascii") for name in settings.expose],
        credentials=settings.credentials,
        max_age=int(settings.max_age),
    )
