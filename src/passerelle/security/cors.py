"""Cross-origin resource sharing: what a browser is told about pages of other origins (Fetch standard, "CORS protocol").

Nothing here keeps a request out: a browser that is not told that a page may read an answer keeps the answer from it.
What a request does, it has done by then; only a preflight is asked before.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from passerelle.errors import Kind
from passerelle.http.messages import Fields, Response, list_members
from passerelle.security.guard import RequestRefused

# What a page may set without asking (Fetch, "CORS-safelisted request-header"), or with a value of its choice once its
# origin is allowed: a body of JSON is what an API is for.
_ALWAYS = frozenset({b"accept", b"accept-language", b"content-language", b"content-type"})
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}").fullmatch

# A shared cache that keeps answers to OPTIONS all the same must tell these apart.
_PREFLIGHT_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class AllowedOrigins:
    """The allowed origins: exact ones, ``https://*.example.com`` for any sub-domain, or ``*`` alone for all."""

    __slots__ = ("_exact", "_under", "all")

    def __init__(self, origins: Iterable[bytes]) -> None:
        origins = list(origins)
        self.all = origins == [b"*"]
        self._exact = frozenset(origin for origin in origins if b"*" not in origin)
        self._under = tuple(tuple(origin.split(b"*", 1)) for origin in origins if b"*" in origin and origin != b"*")

    def allow(self, origin: bytes) -> bool:
        """Whether pages of ``origin`` (as a browser writes it) may."""
        if self.all or origin in self._exact:
            return True
        for start, end in self._under:
            if origin.startswith(start) and origin.endswith(end):
                # Labels alone, without a port, a user or a slash, so that what follows is the end of the host.
                labels = origin[len(start) : len(origin) - len(end)]
                if labels and _LABELS(labels):
                    return True
        return False


_LABELS = re.compile(rb"[0-9a-z_-]+(?:\.[0-9a-z_-]+)*").fullmatch


class CorsPolicy:
    """What one route says. ``methods`` is None where the route takes any; ``headers`` None where any may be set."""

    __slots__ = ("_actual", "_headers", "_listed", "_methods", "_origins", "_preflight", "vary")

    def __init__(
        self,
        origins: Iterable[bytes],
        methods: Collection[bytes] | None,
        headers: Collection[bytes] | None,
        expose: Collection[bytes],
        *,
        credentials: bool,
        max_age: int,
    ) -> None:
        self._origins = AllowedOrigins(origins)
        self._methods = frozenset(methods) if methods is not None else None
        if self._methods is not None and b"GET" in self._methods:
            self._methods |= {b"HEAD"}
        self._headers = None if headers is None else frozenset(name.lower() for name in headers) | _ALWAYS
        self._listed = tuple(headers or ())
        credentialed = b"Access-Control-Allow-Credentials: true\r\n" if credentials else b""
        exposed = b"Access-Control-Expose-Headers: %b\r\n" % b", ".join(expose) if expose else b""
        self._actual = credentialed + exposed
        self._preflight: Fields = [(b"Access-Control-Max-Age", b"%d" % max_age)]
        if credentials:
            self._preflight.append((b"Access-Control-Allow-Credentials", b"true"))
        self.vary = not self._origins.all
        """Whether answers differ by origin: then each says so, also to who has none."""

    def lines(self, origin: bytes | None, method: bytes) -> bytes:
        """The field lines, CRLF after each, of an answer to a request of a page of ``origin``. But for ``Vary``."""
        if self._origins.all:
            # Said to everybody, so that an answer that is stored elsewhere is right for everybody.
            return b"Access-Control-Allow-Origin: *\r\n" + self._actual if self._takes(method) else b""
        if origin is None or not self._takes(method) or not self._origins.allow(origin):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n%b" % (origin, self._actual)

    def preflight(self, origin: bytes, method: bytes, headers: Iterable[bytes]) -> Response:
        """The answer to a preflight for ``method`` with the fields named in ``headers`` (its lines' values).

        :raises Refused: with 403, which a browser takes for a no; the log says which of the three was not allowed.
        """
        asked = [name for value in headers for name in list_members(value)]
        if not self._origins.allow(origin):
            raise _refused(f"CORS: origin {origin.decode('latin-1')}")
        if not self._takes(method):
            raise _refused(f"CORS: method {method.decode('latin-1')} of {origin.decode('latin-1')}")
        for name in asked:
            if not _TOKEN(name) or (self._headers is not None and name.lower() not in self._headers):
                raise _refused(f"CORS: field {name.decode('latin-1')} of {origin.decode('latin-1')}")
        # Never "*": it does not name Authorization, and with credentials it names nothing but itself.
        allowed = b", ".join(dict.fromkeys([*self._listed, *asked]))
        fields: Fields = [
            (b"Access-Control-Allow-Origin", b"*" if self._origins.all else origin),
            (b"Access-Control-Allow-Methods", method if self._methods is None else b", ".join(sorted(self._methods))),
            *self._preflight,
            (b"Vary", _PREFLIGHT_VARY),
        ]
        if allowed:
            fields.append((b"Access-Control-Allow-Headers", allowed))
        return Response(204, fields)

    def _takes(self, method: bytes) -> bool:
        return self._methods is None or method in self._methods


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(Kind.FORBIDDEN, detail, [(b"Vary", _PREFLIGHT_VARY)])
