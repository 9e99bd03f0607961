"""Cross-origin resource sharing: responses to requests from pages of other origins (Fetch standard, "CORS protocol").

CORS keeps no request out. It only determines whether the browser lets a page read the response; by then the request has
had its effect. Only a preflight precedes the request.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from passerelle.errors import Kind
from passerelle.http.messages import Fields, Response, list_members
from passerelle.security.guard import RequestRefused

# Fields that a page may set without a preflight (Fetch, "CORS-safelisted request-header"). For an allowed origin, their
# values are unrestricted: APIs need request bodies in JSON.
_ALWAYS = frozenset({b"accept", b"accept-language", b"content-language", b"content-type"})
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}").fullmatch

# For shared caches that store responses to OPTIONS although they should not.
_PREFLIGHT_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class AllowedOrigins:
    """Allowed origins: exact origins, ``https://*.example.com`` for any sub-domain, or ``*`` alone for all origins."""

    __slots__ = ("_exact", "_under", "all")

    def __init__(self, origins: Iterable[bytes]) -> None:
        origins = list(origins)
        self.all = origins == [b"*"]
        self._exact = frozenset(origin for origin in origins if b"*" not in origin)
        self._under = tuple(tuple(origin.split(b"*", 1)) for origin in origins if b"*" in origin and origin != b"*")

    def allow(self, origin: bytes) -> bool:
        """Return whether pages of ``origin`` (as serialized by a browser) are allowed."""
        if self.all or origin in self._exact:
            return True
        for start, end in self._under:
            if origin.startswith(start) and origin.endswith(end):
                # Only host labels may match, without port, user information or slash, so that the suffix is the end of
                # the host.
                labels = origin[len(start) : len(origin) - len(end)]
                if labels and _LABELS(labels):
                    return True
        return False


_LABELS = re.compile(rb"[0-9a-z_-]+(?:\.[0-9a-z_-]+)*").fullmatch


class CorsPolicy:
    """CORS policy of a route. ``methods``: None if the route accepts any method; ``headers``: None if pages may set
    any."""

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
        """Whether responses differ by origin: then each has ``Vary: Origin``, even if the request has no Origin."""

    def lines(self, origin: bytes | None, method: bytes) -> bytes:
        """Return the field lines, each with CRLF, for the response to a page of ``origin``; ``Vary`` is added
        separately."""
        if self._origins.all:
            # Sent in every response, so that a copy in another cache is valid for all origins.
            return b"Access-Control-Allow-Origin: *\r\n" + self._actual if self._takes(method) else b""
        if origin is None or not self._takes(method) or not self._origins.allow(origin):
            return b""
        return b"Access-Control-Allow-Origin: %b\r\n%b" % (origin, self._actual)

    def preflight(self, origin: bytes, method: bytes, headers: Iterable[bytes]) -> Response:
        """Respond to a preflight for ``method`` with the fields named in ``headers`` (the values of its lines).

        :raises RequestRefused: with 403, which makes the browser block the request; the log states what was not
        allowed.
        """
        requested = [name for value in headers for name in list_members(value)]
        if not self._origins.allow(origin):
            raise _refused(f"CORS: origin {origin.decode('latin-1')}")
        if not self._takes(method):
            raise _refused(f"CORS: method {method.decode('latin-1')} of {origin.decode('latin-1')}")
        for name in requested:
            if not _TOKEN(name) or (self._headers is not None and name.lower() not in self._headers):
                raise _refused(f"CORS: field {name.decode('latin-1')} of {origin.decode('latin-1')}")
        # Never "*": it does not include Authorization, and with credentials it is no wildcard.
        named = {name.lower(): name for name in self._listed}
        for name in requested:
            named.setdefault(name.lower(), name)
        allowed = b", ".join(named.values())
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
