"""Cookies of a request (RFC 6265 §5.4), and the lines that set and remove the gateway's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from passerelle.security.guard import GuardedCall


def values(call: GuardedCall, name: bytes) -> list[bytes]:
    """Every value of the cookie called ``name``, in order: a client may send several."""
    found = []
    for pair in _pairs(field.value for field in call.fields if field.name == b"cookie"):
        key, mark, value = pair.partition(b"=")
        if mark and key.strip() == name:
            found.append(value.strip())
    return found


def set_line(name: bytes, value: bytes, *, secure: bool, scripts: bool, seconds: int | None = None) -> bytes:
    """A ``Set-Cookie`` line with CRLF: for the whole host, ``SameSite=Lax``.

    ``scripts`` may read it or not; it lasts for ``seconds`` (None: until the browser is closed, 0: no longer).
    """
    line = b"Set-Cookie: %b=%b; Path=/; SameSite=Lax" % (name, value)
    if seconds is not None:
        line += b"; Max-Age=%d" % seconds
    if secure:
        line += b"; Secure"
    return line + (b"\r\n" if scripts else b"; HttpOnly\r\n")


class HideCookies:
    """The guard that keeps cookies (``names``) from going upstream; the others of a line go on."""

    __slots__ = ("_names",)

    def __init__(self, names: Collection[bytes]) -> None:
        self._names = frozenset(names)

    def __call__(self, call: GuardedCall) -> None:
        """Withhold the lines with such a cookie, and send what else was in them."""
        for field in call.fields:
            if field.name != b"cookie":
                continue
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
