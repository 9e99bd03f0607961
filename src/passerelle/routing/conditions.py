"""Conditions of routes: what a request must have beside its host, path and method.

A condition is about one value of the request: a header field, a cookie, a parameter of the query, the address of the
client, the media type of the body or the whole path. Where a name occurs several times, there is still one value, so
that two conditions with different values never hold for the same request:

- lines of a field are joined with ", " (RFC 9110 §5.3), as a recipient may do anyway;
- of cookies and of parameters with the same name, the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from passerelle.routing.linear_pattern import LinearPattern

Network = IPv4Network | IPv6Network
# Names of fields and cookies whose values may be secrets, such as the one that a content delivery network adds.
_SECRET = re.compile(rb"auth|cred|key|pass|secret|sign|token|verify", re.IGNORECASE).search
Source = Literal["header", "query", "cookie", "client", "content type", "path"]


class ConditionalRequest(Protocol):
    """A request as conditions see it."""

    def value(self, source: Source, name: bytes) -> bytes | None:
        """Return the value of ``name`` (lower case for fields, empty for all that has no name), or None."""


class Test(Protocol):
    """What a value must fulfil."""

    def accepts(self, value: bytes) -> bool:
        """Return whether ``value`` fulfils it."""


@dataclass(frozen=True, slots=True)
class Is:
    """One of ``values``."""

    values: frozenset[bytes]

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return value in self.values

    def __str__(self) -> str:
        return f"is {_listed(self.values)}"


@dataclass(frozen=True, slots=True)
class BeginsWith:
    """A value that begins with one of ``prefixes``."""

    prefixes: tuple[bytes, ...]

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return value.startswith(self.prefixes)

    def __str__(self) -> str:
        return f"begins with {_listed(self.prefixes)}"


@dataclass(frozen=True, slots=True)
class Matches:
    """A value that ``pattern`` matches as a whole."""

    pattern: LinearPattern

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return self.pattern.matches(value)

    def __str__(self) -> str:
        return f"matches {self.pattern.text!r}"


@dataclass(frozen=True, slots=True)
class Present:
    """Any value, also an empty one."""

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return True

    def __str__(self) -> str:
        return "is present"


@dataclass(frozen=True, slots=True)
class InNetworks:
    """An address in one of ``networks``."""

    networks: frozenset[Network]

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return _is_in(self.networks, value)

    def __str__(self) -> str:
        return f"is in {', '.join(sorted(map(str, self.networks)))}"


@dataclass(frozen=True, slots=True)
class MediaTypes:
    """A media type (RFC 9110 §8.3.1) in lower case, one of ``types``, where ``text/*`` stands for all texts."""

    types: frozenset[bytes]

    def accepts(self, value: bytes) -> bool:
        """See :class:`Test`."""
        return value in self.types or value.partition(b"/")[0] + b"/*" in self.types

    def __str__(self) -> str:
        return f"is {_listed(self.types)}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the value of ``name`` in ``source``; ``negated`` ones hold where the value is absent, too."""

    source: Source
    name: bytes
    test: Is | BeginsWith | Matches | Present | InNetworks | MediaTypes
    negated: bool = False

    def holds(self, request: ConditionalRequest) -> bool:
        """Return whether ``request`` meets it."""
        value = request.value(self.source, self.name)
        return (value is not None and self.test.accepts(value)) is not self.negated

    def why_not(self, request: ConditionalRequest) -> str:
        """Return why ``request`` does not meet it."""
        value = request.value(self.source, self.name)
        found = "is absent" if value is None else f"is {_cut(_text(value))!r}"
        return f"{self.subject} {found} (needed: {self._predicate})"

    @property
    def subject(self) -> str:
        """What the condition is about."""
        if self.source == "client":
            return "client address"
        return f"{self.source} {_text(self.name)}" if self.name else self.source

    @property
    def _predicate(self) -> str:
        if self.source in ("header", "cookie") and _SECRET(self.name) and not isinstance(self.test, Present):
            return f"{'does not have' if self.negated else 'has'} a value that is not shown, as it may be a secret"
        if not self.negated:
            return str(self.test)
        if isinstance(self.test, Present):
            return "is absent"
        verb, _, rest = str(self.test).partition(" ")
        return f"is not {rest}" if verb == "is" else f"does not {verb.removesuffix('s').removesuffix('e')} {rest}"

    def __str__(self) -> str:
        return f"{self.subject} {self._predicate}"


def never_together(one: Condition, other: Condition) -> bool:
    """Return whether no request can meet both. False where that is not certain."""
    if (one.source, one.name) != (other.source, other.name):
        return False
    if one.negated and other.negated:
        return False  # a request without the value meets both
    if one.negated or other.negated:
        positive, negative = (other, one) if one.negated else (one, other)
        return _implies(positive.test, negative.test)
    return _disjoint(one.test, other.test) or _disjoint(other.test, one.test)


def implies(one: Condition, other: Condition) -> bool:
    """Return whether every request that meets ``one`` meets ``other``, as far as that is certain."""
    if (one.source, one.name) != (other.source, other.name):
        return False
    if not one.negated and not other.negated:
        return _implies(one.test, other.test)
    if one.negated and other.negated:
        return _implies(other.test, one.test)
    return not one.negated and _disjoint(one.test, other.test)


def _implies(one: object, other: object) -> bool:
    """Return whether every value that fulfils ``one`` fulfils ``other``, as far as that is certain."""
    if one == other or isinstance(other, Present):
        return True
    if isinstance(one, Is) and isinstance(other, Is | BeginsWith | Matches):
        return all(other.accepts(value) for value in one.values)
    if isinstance(one, BeginsWith) and isinstance(other, BeginsWith):
        return all(each.startswith(other.prefixes) for each in one.prefixes)
    if isinstance(one, Matches) and isinstance(other, Matches):
        return other.pattern.includes(one.pattern)
    if isinstance(one, InNetworks) and isinstance(other, InNetworks):
        return all(any(_within(each, network) for network in other.networks) for each in one.networks)
    if isinstance(one, MediaTypes) and isinstance(other, MediaTypes):
        return all(other.accepts(each) for each in one.types)
    return False


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _disjoint(one: object, other: object) -> bool:
    """Return whether no value fulfils both, as far as that is certain."""
    if isinstance(one, Is) and isinstance(other, Is | BeginsWith | Matches):
        return not any(other.accepts(value) for value in one.values)
    if isinstance(one, BeginsWith) and isinstance(other, BeginsWith):
        return not any(a.startswith(b) or b.startswith(a) for a in one.prefixes for b in other.prefixes)
    if isinstance(one, Matches) and isinstance(other, Matches):
        return not one.pattern.overlaps(other.pattern)
    if isinstance(one, InNetworks) and isinstance(other, InNetworks):
        return not any(a.overlaps(b) for a in one.networks for b in other.networks if a.version == b.version)
    if isinstance(one, MediaTypes) and isinstance(other, MediaTypes):
        return not any(_meet(a, b) for a in one.types for b in other.types)
    return False


def _meet(one: bytes, other: bytes) -> bool:
    if one.endswith(b"/*") or other.endswith(b"/*"):
        return one.partition(b"/")[0] == other.partition(b"/")[0]
    return one == other


@lru_cache(maxsize=4096)
def _is_in(networks: frozenset[Network], text: bytes) -> bool:
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


class RoutedRequest:
    """A request as conditions see it. Values are read when a condition needs them.

    ``named`` returns the values of all lines of a field (lower case); ``query`` has no ``?``; ``path`` is canonical.
    """

    __slots__ = ("_address", "_cookies", "_named", "_path", "_query")

    def __init__(
        self,
        named: Callable[[bytes], Sequence[bytes]],
        query: bytes,
        address: Callable[[], bytes | None],
        path: bytes,
    ) -> None:
        self._path = path
        self._named = named
        self._query = query
        self._address = address
        self._cookies: bytes | None = None

    def value(self, source: Source, name: bytes) -> bytes | None:
        """See :class:`ConditionalRequest`."""
        if source == "header":
            return self._field(name)
        if source == "query":
            return parameter_finder(name)(self._query)
        if source == "cookie":
            if self._cookies is None:
                self._cookies = b";".join(self._named(b"cookie"))
            return cookie_finder(name)(self._cookies)
        if source == "client":
            return self._address()
        if source == "path":
            return self._path
        content_type = self._field(b"content-type")
        return None if content_type is None else content_type.partition(b";")[0].strip(b" \t").lower()

    def _field(self, name: bytes) -> bytes | None:
        values = self._named(name)
        return b", ".join(values) if values else None


@lru_cache(maxsize=1024)
def cookie_finder(name: bytes) -> Callable[[bytes], bytes | None]:
    """Return a function that finds the first cookie ``name`` in the joined values of ``Cookie`` fields.

    It takes linear time: a position is the beginning of a cookie at most once.
    """
    search = re.compile(rb"(?:\A|;)[ \t]*+%b=([^;]*+)" % re.escape(name)).search

    def find(values: bytes) -> bytes | None:
        found = search(values)
        return found[1].rstrip(b" \t") if found is not None else None

    return find


@lru_cache(maxsize=1024)
def parameter_finder(name: bytes) -> Callable[[bytes], bytes | None]:
    """Return a function that finds the decoded value of the first parameter ``name`` in a query without ``?``.

    Names and values are decoded as forms are: "+" is a blank, %XX an octet. A parameter without "=" is empty. All
    spellings of the name are searched for, so that the names in a query need not be decoded; that takes linear time.
    """
    spellings = b"".join(_spellings(octet) for octet in name)
    search = re.compile(rb"(?:\A|&)%b(?:=([^&]*+)|(?=&|\Z))" % spellings).search

    def find(query: bytes) -> bytes | None:
        found = search(query)
        return _decoded(found[1] or b"") if found is not None else None

    return find


def _spellings(octet: int) -> bytes:
    """Return a pattern for the ways in which forms write an octet of a name."""
    digits = b"".join(b"[%c%c]" % (digit, ord(chr(digit).lower())) for digit in b"%02X" % octet)
    if octet in b"&=+%":
        return b"%%%b" % digits
    return b"(?:%b|%%%b)" % (rb"\+" if octet == 0x20 else re.escape(bytes((octet,))), digits)


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


def canonical_text(conditions: Iterable[Condition]) -> str:
    """Return a text that is equal for equal sets of conditions, whatever their order."""
    return "\n".join(sorted(f"{each.source} {each.name!r} {each.negated} {each.test}" for each in conditions))


def digest_of(conditions: Iterable[Condition]) -> str:
    """Return a suffix for the name of a route, with the subjects of its conditions; empty without any."""
    conditions = tuple(conditions)
    if not conditions:
        return ""
    subjects = ",".join(sorted({f"{each.source.replace(' ', '-')}{_name(each.name)}" for each in conditions}))
    return f"[{subjects}~{blake2b(canonical_text(conditions).encode(), digest_size=4).hexdigest()}]"


_SUFFIX = re.compile(r"\[[^\[\]]*~[0-9a-f]{8}\]\Z")


def path_of_label(text: str) -> str:
    """Return ``text`` without the suffix of :func:`digest_of`."""
    return _SUFFIX.sub("", text)


def _name(name: bytes) -> str:
    return f":{quote_from_bytes(name, '')}" if name else ""


def _listed(values: Iterable[bytes]) -> str:
    return " or ".join(repr(_text(value)) for value in sorted(values))


def _text(value: bytes) -> str:
    """Return a value as text, with octets that cannot be shown escaped."""
    return value.decode() if value.isascii() and value.decode().isprintable() else quote_from_bytes(value, " ")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
