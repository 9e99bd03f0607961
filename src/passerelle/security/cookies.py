"""Cookies of a request (RFC 6265 §5.4), and the Set-Cookie lines of the gateway's own cookies."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from passerelle.security.guard import GuardedCall


def values(call: GuardedCall, name: bytes) -> list[bytes]:
    """Return every value of the cookie ``name``, in order: a client may send several."""
    found = []
    for pair in _pairs(field.value for field in call.lines(b"cookie")):
        key, mark, value = pair.partition(b"=")
        if mark and key.strip() == name:
            found.append(value.strip())
    return found


def set_line(name: bytes, value: bytes, *, secure: bool, scripts: bool, seconds: int | None = None) -> bytes:
    """Build a ``Set-Cookie`` line with CRLF, for the whole host, with ``SameSite=Lax``.

    ``scripts``: whether scripts may read the cookie. ``seconds`` is its lifetime (None: until the browser is closed; 0:
    delete it).
    """
    line = b"Set-Cookie: %b=%b; Path=/; SameSite=Lax" % (name, value)
    if seconds is not None:
        line += b"; Max-Age=%d" % seconds
    if secure:
        line += b"; Secure"
    return line + (b"\r\n" if scripts else b"; HttpOnly\r\n")


class HideCookies:
    """Guard that removes the cookies ``names`` from the request that is forwarded, and keeps other cookies of the same
    line."""

    __slots__ = ("_names",)

    def __init__(self, names: Collection[bytes]) -> None:
        self._names = frozenset(names)

    def __call__(self, call: GuardedCall) -> None:
        """Hide the lines with such a cookie, and forward their other cookies."""
        for field in call.lines(b"cookie"):
            pairs = list(_pairs([field.value]))
            kept = [pair for pair in pairs if pair.partition(b"=")[0].strip() not in self._names]
            if len(kept) == len(pairs):
                continue
            if kept:
                call.rewritten_lines = [*call.rewritten_lines, (field.line, b"Cookie: %b" % b"; ".join(kept))]
            else:
                call.hidden_lines = [*call.hidden_lines, field.line]


def _pairs(lines: Iterable[bytes]) -> Iterable[bytes]:
    for line in lines:
        for pair in line.split(b";"):
            stripped = pair.strip(b" \t")
            if stripped:
                yield stripped
