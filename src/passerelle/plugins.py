"""What plugins of a gateway are written with: the request that they see, and what they return.

A plugin is a function, or a class whose instances can be called. ``plugins`` of the configuration names it and states
what it does: a ``guard`` admits or refuses requests, a ``request`` filter changes what a service receives, a
``response`` filter changes what a client receives. See docs/how-to/write-a-plugin.md and docs/reference/plugins.md.

::

    from passerelle.plugins import Allow, Refuse, Request

    def office_hours(request: Request) -> Allow | Refuse:
        return Allow() if 8 <= datetime.now().hour < 18 else Refuse(403)

Names and values of header fields are text here: octets of a message are decoded as ISO 8859-1, as in WSGI.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from passerelle.http.field_rules import forbidden_request, forbidden_response

__all__ = [
    "Allow",
    "Guard",
    "GuardResult",
    "Headers",
    "Refuse",
    "Request",
    "RequestChange",
    "RequestFilter",
    "Response",
    "ResponseChange",
    "ResponseFilter",
]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
# RFC 9110 §5.5: visible ASCII and obs-text, with blanks inside only. Such a value cannot end its line.
_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\x20-\x7e\t\x80-\xff]*[\x21-\x7e\x80-\xff])?)?").fullmatch
_QUERY = re.compile(r"[\x21\x24-\x7e]*").fullmatch  # visible ASCII without " and #
_CONSUMER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?").fullmatch
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}").fullmatch
_LONGEST_VALUE = 8192
_LONGEST_QUERY = 8192
# Responses with these statuses have no content, or a part of it: no filter may produce them.
_SPECIAL_STATUSES = frozenset({204, 205, 206, 304})

_NOTHING: MappingProxyType[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


Values = Mapping[str, str | Sequence[str]]
"""Fields by name: one value, or one for each line of the field."""


class Headers(Mapping[str, str]):
    """Header fields, by name in any case. The lines of a field are joined with commas (RFC 9110 §5.2)."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        self._fields = [(name.lower(), value) for name, value in pairs]

    def get_all(self, name: str) -> list[str]:
        """Return the values of all lines of the field ``name``, in the order received."""
        wanted = name.lower()
        return [value for known, value in self._fields if known == wanted]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return values[0] if len(values) == 1 else ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._fields))

    def __len__(self) -> int:
        return len({name for name, _ in self._fields})

    def __repr__(self) -> str:
        return f"<Headers {', '.join(self)}>"  # without values, which may be credentials


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a client.

    ``path`` is canonical and percent-encoded, ``query`` is without its question mark. ``client`` is the address of the
    client, behind ``trusted_proxies`` the original one. ``route`` is the label of the route, as in metrics.
    ``consumer``, ``scopes`` and ``claims`` are what earlier guards have established; ``consumer`` is None without any.
    """

    method: str = "GET"
    path: str = "/"
    query: str = ""
    headers: Headers = field(default_factory=Headers)
    client: str = "127.0.0.1"
    host: str = ""
    scheme: str = "http"
    route: str = ""
    request_id: str = ""
    consumer: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Response:
    """A response of a service, or of the cache, before the client receives it.

    ``body`` is None unless the plugin has a limit for bodies (``body`` in the configuration), and for HEAD.
    """

    status: int
    headers: Headers
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    """A guard admits the request, and may state who the client is.

    ``consumer``, ``scopes`` and ``claims`` replace what earlier guards have established; services receive them as
    those of any other credential. ``headers`` are for the service; ``sets`` of the plugin must name them.
    """

    consumer: str | None = None
    scopes: Iterable[str] = ()
    claims: Mapping[str, Any] = field(default_factory=_nothing)
    headers: Values = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        if self.consumer is not None and not _CONSUMER(self.consumer):
            raise ValueError(f"consumer {self.consumer!r}: 1 to 256 visible ASCII characters, with blanks inside only")
        if self.consumer is None and (self.scopes or self.claims):
            raise ValueError("scopes and claims need a consumer")
        if isinstance(self.scopes, str) or not all(_SCOPE(scope) for scope in self.scopes):
            raise ValueError("scopes: a list of texts of 1 to 128 visible ASCII characters without quotes")
        _check_request_fields(self.headers)


@dataclass(frozen=True, slots=True)
class Refuse:
    """A guard refuses the request with a response of its own: a redirect, or an error.

    Without a ``body``, the client receives problem details (RFC 9457). ``reason`` is for the access log alone.
    """

    status: int = 403
    headers: Values = field(default_factory=_nothing)
    body: bytes | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 599 or self.status in _SPECIAL_STATUSES:
            raise ValueError(f"status {self.status}: a refusal has a status from 300 to 599, and not 304")
        if self.body is not None and not isinstance(self.body, bytes):
            raise ValueError("body: bytes")
        _check_response_fields(self.headers)


@dataclass(frozen=True, slots=True)
class RequestChange:
    """What a request filter changes: fields that it sets or removes, and the query.

    ``sets`` of the plugin must name the fields that it sets. ``query`` is without its question mark; None keeps it.
    """

    set_headers: Values = field(default_factory=_nothing)
    remove_headers: Iterable[str] = ()
    query: str | None = None

    def __post_init__(self) -> None:
        _check_request_fields(self.set_headers)
        _check_request_fields(dict.fromkeys(_names(self.remove_headers), ""))
        if self.query is not None and not (_QUERY(self.query) and len(self.query) <= _LONGEST_QUERY):
            raise ValueError('query: visible ASCII without " and #, percent-encoded, at most 8192 characters')


@dataclass(frozen=True, slots=True)
class ResponseChange:
    """What a response filter changes: the status, fields, and with a limit for bodies the body. None keeps each."""

    status: int | None = None
    set_headers: Values = field(default_factory=_nothing)
    remove_headers: Iterable[str] = ()
    body: bytes | None = None

    def __post_init__(self) -> None:
        if self.status is not None and (not 200 <= self.status <= 599 or self.status in _SPECIAL_STATUSES):
            raise ValueError(f"status {self.status}: allowed are 200 to 599, and not 204, 205, 206, 304")
        _check_response_fields(self.set_headers)
        _check_response_fields(dict.fromkeys(_names(self.remove_headers), ""))
        if self.body is not None and not isinstance(self.body, bytes):
            raise ValueError("body: bytes")


GuardResult = Allow | Refuse | None
"""None admits the request, as ``Allow()`` does."""


class Guard(Protocol):
    """A guard: it admits a request or refuses it. It may be a coroutine function."""

    def __call__(self, request: Request, /) -> GuardResult | Awaitable[GuardResult]:
        """Decide about ``request``."""


class RequestFilter(Protocol):
    """A filter of requests to a service. It may be a coroutine function."""

    def __call__(self, request: Request, /) -> RequestChange | Awaitable[RequestChange | None] | None:
        """Return the changes to ``request``, None for none."""


class ResponseFilter(Protocol):
    """A filter of responses to clients. It may be a coroutine function."""

    def __call__(
        self, request: Request, response: Response, /
    ) -> ResponseChange | Awaitable[ResponseChange | None] | None:
        """Return the changes to ``response``, the response to ``request``; None for none."""


def _names(names: Iterable[str]) -> Iterable[str]:
    if isinstance(names, str):
        raise ValueError(f"remove_headers: a list of names, such as [{names!r}]")
    return names


def _check_request_fields(fields: Values) -> None:
    _check(fields)
    for name in fields:
        if (reason := forbidden_request(name)) is not None:
            raise ValueError(f"the request field {name!r} cannot be changed: {reason}")


def _check_response_fields(fields: Values) -> None:
    _check(fields)
    for name in fields:
        if (reason := forbidden_response(name)) is not None:
            raise ValueError(f"the response field {name!r} cannot be changed: {reason}")


def _check(fields: Values) -> None:
    for name, values in fields.items():
        if not _NAME(name):
            raise ValueError(f"{name!r} is not the name of a field")
        for value in (values,) if isinstance(values, str) else values:
            # The value is not shown: it may be a credential.
            if not isinstance(value, str) or not _VALUE(value) or len(value) > _LONGEST_VALUE:
                raise ValueError(f"the value of {name} cannot be sent in a field line (RFC 9110 §5.5)")
