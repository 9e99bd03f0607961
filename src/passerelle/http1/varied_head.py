"""Request heads of a connection that vary in a few neighbouring lines only.

The requests of a connection mostly repeat their fields, except for some such as a trace id or a cookie. Checking each
octet of a head takes 14,000 instructions; comparing the lines before and after the ones that vary takes a few hundred.
What is compared equal was checked before, so only the lines between need the check, and everything that depends on the
other lines carries over: framing, host, the client's address, and most of the lines for the upstream
(``docs/decisions/024-varied-heads.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from re import Match

from passerelle.http.messages import NOT_FOR_PARTS
from passerelle.http1.head import RequestHead

# A variation is learned when so many heads neither repeated the last one nor fitted the known variation: learning takes
# as long as to parse three heads, and must not be tried for each head of a connection whose heads never settle.
_LEARN_AT = frozenset({2, 4, 8, 16, 32, 64, 128, 256})


class Variation:
    """The lines ``first`` to ``end`` (exclusive) of a head that vary, and the head ``template`` for all others.

    ``before`` and ``after`` are the octets around these lines, and ``match`` matches well-formed lines with their
    names. ``upstream`` and ``parts`` are the octets around them in the lines for the upstream and for parts of a
    composition: None until such lines are known, and empty if they do not contain these.
    """

    __slots__ = ("after", "before", "end", "first", "match", "parts", "start", "tail", "template", "upstream")

    def __init__(
        self, template: RequestHead, first: int, end: int, match: Callable[[bytes, int, int], Match[bytes] | None]
    ) -> None:
        lines = template.section.split(b"\r\n")
        self.template = template
        self.first = first
        self.end = end
        self.before = b"".join([line + b"\r\n" for line in lines[:first]])
        self.after = b"\r\n".join(lines[end:])
        self.start, self.tail = len(self.before), len(self.after)
        self.match = match
        self.upstream: tuple[bytes, ...] | None = None
        self.parts: tuple[bytes, ...] | None = None
        self.derive(template)

    def derive(self, head: RequestHead) -> None:
        """Find the lines that vary in what was derived from ``head``, which has all others from the template."""
        if self.upstream is None and head.upstream is not None:
            self.upstream = self._around(head, head.upstream)
        if self.parts is None and head.part_fields is not None:
            names = head.layout.names[self.first : self.end]
            self.parts = self._around(head, head.part_fields) if NOT_FOR_PARTS.isdisjoint(names) else ()

    def _around(self, head: RequestHead, derived: bytes) -> tuple[bytes, ...]:
        """Return the octets before and after the lines that vary in ``derived``.

        ``derived`` begins with those lines of ``head`` that are forwarded. Whether one is depends on its name.
        """
        position = 0
        for line in self.before.splitlines(keepends=True):
            if derived.startswith(line, position):
                position += len(line)
        varying = head.section[self.start : len(head.section) - self.tail]
        if not derived.startswith(varying, position):
            return ()
        return derived[:position], derived[position + len(varying) :]


class VariedHead(RequestHead):
    """A head with the lines of ``variation`` from ``section``, and all others as in the template."""

    __slots__ = ("_variation",)

    def __init__(self, section: bytes, variation: Variation) -> None:
        template = variation.template
        self._variation = variation
        self.section = section
        self.layout = template.layout
        self._match = None
        self._split = None
        self._framing = template._framing
        self._nominated = template._nominated
        self.authority = template.authority
        self.chunked = template.chunked
        self.content_length = template.content_length
        self.debug = template.debug
        self.expect = template.expect
        self.forwarded = template.forwarded
        self.host = template.host
        self.plain = template.plain
        self.upgrade = template.upgrade
        self.user_agent = template.user_agent
        self.chain = template.chain
        self.cache_origin = template.cache_origin
        self.cache_view = None
        self.part_view = None
        self.upstream = self.part_fields = None
        if variation.upstream:
            before, after = variation.upstream
            self.upstream = before + section[variation.start : len(section) - variation.tail] + after
        if variation.parts:
            before, after = variation.parts
            self.part_fields = before + section[variation.start : len(section) - variation.tail] + after

    def _line(self, number: int) -> bytes:
        variation = self._variation
        if variation.first <= number < variation.end:
            return self._lines[number]
        return variation.template._line(number)


def next_head(section: bytes, max_fields: int, last: RequestHead | None) -> RequestHead:
    """Parse ``section``, which differs from that of ``last``, the last head of the connection. See ``RequestHead``."""
    if last is None:
        return RequestHead(section, max_fields)
    variation: Variation | None = last.variation
    if (
        variation is not None
        and section.startswith(variation.before)
        and section.endswith(variation.after)
        and variation.match(section, variation.start, len(section) - variation.tail) is not None
    ):
        unknown = (variation.upstream is None and last.upstream is not None) or (
            variation.parts is None and last.part_fields is not None
        )
        if unknown and type(last) is VariedHead:
            variation.derive(last)
        head: RequestHead = VariedHead(section, variation)
        head.variation = variation
        head.misses = last.misses
        return head
    head = RequestHead(section, max_fields, last)
    head.misses = misses = last.misses + 1
    head.variation = _learned(head, last) or variation if misses in _LEARN_AT else variation
    return head


def _learned(head: RequestHead, last: RequestHead) -> Variation | None:
    """Return the variation of ``head`` and ``last``, if there is one that saves work.

    The lines that vary include those of the last variation, so that the next heads fit both.
    """
    layout = head.layout
    if layout is not last.layout or last._nominated or head._match is None:
        return None  # without a match, the layout is not in frequent use
    pairs = zip(last._lines, head._lines, strict=True)
    differing = [number for number, (old, new) in enumerate(pairs) if old != new]
    first, end = differing[0], differing[-1] + 1
    before: Variation | None = last.variation
    if before is not None and before.template.layout is layout:
        first, end = min(first, before.first), max(end, before.end)
    match = layout.match_lines(first, end) if all(layout.varies[first:end]) else None
    if match is None:
        return None
    # A head of its own: that of a connection keeps a variation, and so other templates.
    template = RequestHead(last.section, len(layout.names), last)
    template.chain, template.cache_origin = last.chain, last.cache_origin
    template.upstream, template.part_fields = last.upstream, last.part_fields
    return Variation(template, first, end, match)
