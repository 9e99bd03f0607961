"""A slow and plain reading of header sections, written independently of the gateway's, for comparison with it.

It takes one octet and one line at a time, remembers nothing, and follows the text of RFC 9110 §5 and RFC 9112 §5, §6.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

Pairs = list[tuple[bytes, bytes]]

_TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# RFC 3986 §3.2.2: the octets of a reg-name, without the comma, which separates the members of a list.
_HOST_OCTETS = (_TCHAR | frozenset(b"()=;")) - frozenset(b"#^`|")
_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
    *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
_REQUEST_ONLY = {b"expect", b"forwarded", b"proxy", b"x-real-ip", b"x-request-id", b"passerelle-debug"}
_KEPT_WHATEVER_CONNECTION_NAMES = {b"host", b"content-length", b"content-type", b"close"}
SELECTING = {
    *(b"authorization", b"cache-control", b"cookie", b"if-match", b"if-modified-since", b"if-none-match"),
    *(b"if-range", b"if-unmodified-since", b"range"),
}


class Refused(Exception):
    """The section is malformed, or its fields conflict."""


def fields_of(section: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Return the name in lower case, the value and the line of each field in ``section`` (a CRLF after each line)."""
    fields = []
    while section:
        end = section.find(b"\r\n")
        if end < 0:
            raise Refused("a line without its end")
        line, section = section[:end], section[end + 2 :]
        name, colon, value = line.partition(b":")
        if not colon or not name or any(octet not in _TCHAR for octet in name):
            raise Refused("a name that is no token")
        if any((octet < 0x20 and octet != 0x09) or octet == 0x7F for octet in value):
            raise Refused("a control character")
        fields.append((name.lower(), value.strip(b" \t"), line))
    return fields


def is_dropped(name: bytes, request: bool) -> bool:
    """Whether a field with this name never passes the gateway, however the name is spelled for CGI."""
    own = _HOP | _REQUEST_ONLY if request else _HOP
    if name in own:
        return True
    alias = name.replace(b"_", b"-")
    prefixes = (b"passerelle-", b"x-consumer", b"x-forwarded-")
    framing = {b"host", b"content-length", b"user-agent"} if request else {b"content-length", b"date"}
    return alias.startswith(prefixes) or (alias != name and (alias in own or alias in framing))


def members(fields: Pairs, name: bytes) -> list[bytes]:
    """Return the members of all lines of a list field, in lower case."""
    parts = [part.strip(b" \t").lower() for key, value in fields if key == name for part in value.split(b",")]
    return [part for part in parts if part]


class Message:
    """What a header section states about the framing and the forwarding of its message."""

    def __init__(self, section: bytes, request: bool) -> None:
        lines = fields_of(section)
        self.fields: Pairs = [(name, value) for name, value, _ in lines]
        names = [name for name, _ in self.fields]
        for single in (b"content-length", b"transfer-encoding", *((b"host",) if request else ())):
            if names.count(single) > 1:
                raise Refused("a field twice")
        self.length = -1
        for name, value in self.fields:
            if name == b"connection" and len({part.strip(b" \t").lower() for part in value.split(b",")} - {b""}) > 64:
                raise Refused("too many options")
            if name == b"content-length":
                if re.fullmatch(rb"[0-9]{1,15}", value) is None:
                    raise Refused("a length that is none")
                self.length = int(value)
        self.options = set(members(self.fields, b"connection"))
        if len(self.options) > 64 and request:
            raise Refused("too many options")
        self.coded = b"transfer-encoding" in names
        codings = members(self.fields, b"transfer-encoding")
        self.chunked = codings == [b"chunked"]
        if self.coded and (self.length >= 0 or (not self.chunked and request)):
            raise Refused("a body that two parsers could frame differently")
        if self.coded and not self.chunked:
            known = re.fullmatch(rb"(x-)?(gzip|compress|deflate)|.*chunk.*", codings[0]) if codings else True
            if len(codings) != 1 or known or any(octet not in _TCHAR for octet in codings[0]):
                raise Refused("a coding with a meaning")
        nominated = self.options - _KEPT_WHATEVER_CONNECTION_NAMES
        self.kept = [(name, line) for name, _, line in lines if not is_dropped(name, request) and name not in nominated]
        self.end_to_end = [field for field in self.fields if field[0] not in _HOP | nominated]


class Request(Message):
    """A request, as :class:`passerelle.http1.head.RequestHead` reads it."""

    def __init__(self, section: bytes) -> None:
        super().__init__(section, True)
        self.authority, self.host = b"", None
        self.user_agent, self.upgrade = b"", None
        self.expect = self.debug = self.forwarded = False
        for name, value in self.fields:
            if name == b"host":
                self.authority, self.host = value, self._host(value)
            elif name == b"user-agent":
                self.user_agent = value
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise Refused("an unknown expectation")
                self.expect = True
            elif name == b"passerelle-debug":
                self.debug = value == b"1"
            elif name in (b"forwarded", b"x-real-ip") or (name.startswith(b"x-forwarded-") and b"_" not in name):
                self.forwarded = True
            elif name == b"upgrade":
                self.upgrade = None if re.search(rb"h2|http|tls", value.lower()) else value
        bodied = self.chunked or self.length > 0
        if bodied or b"upgrade" not in self.options:
            self.upgrade = None
        self.close = b"close" in self.options
        self.plain = not (bodied or self.expect or self.close or self.debug or self.upgrade is not None)
        self.relay = b"".join(line + b"\r\n" for _, line in self.kept)
        self.selecting = [field for field in self.end_to_end if field[0] in SELECTING]

    def without(self, names: frozenset[bytes]) -> bytes:
        """Return the forwarded lines but those of the fields ``names``."""
        return b"".join(line + b"\r\n" for name, line in self.kept if name not in names)

    @staticmethod
    def _host(value: bytes) -> bytes:
        if value.startswith(b"["):
            literal, bracket, rest = value[1:].partition(b"]")
            name, colon, port = value[: len(literal) + 2], rest[:1], rest[1:]
            try:
                IPv6Address(literal.decode("ascii"))
            except ValueError:
                raise Refused("a Host that is none") from None
            if not bracket or b"%" in literal or colon not in (b"", b":"):
                raise Refused("a Host that is none")
        else:
            name, _, port = value.partition(b":")
            if not name or any(octet not in _HOST_OCTETS for octet in name):
                raise Refused("a Host that is none")
        if re.fullmatch(rb"[0-9]{0,5}", port) is None or int(port or b"0") > 65535:
            raise Refused("a Host that is none")
        return name.lower().rstrip(b".")


class Response(Message):
    """A response with the status line ``HTTP/1.1 200 OK``, as :class:`passerelle.http1.head.ResponseHead` reads it."""

    def __init__(self, section: bytes) -> None:
        super().__init__(section, False)
        self.close = b"close" in self.options or (self.coded and not self.chunked)
        self.relay = b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for _, line in self.kept)
        self.has_date = any(name == b"date" for name, _ in self.fields)
        upgrades = [value for name, value in self.fields if name == b"upgrade"]
        self.upgrade = upgrades[-1] if upgrades and b"upgrade" in self.options else None
