"""Request heads of a connection that vary in a few neighbouring lines only.

The requests of a connection mostly repeat their fields, except for some such as a trace id or a cookie. Checking each
octet of a head takes 14,000 instructions; comparing what is around the values that vary takes 1,000. What is compared
equal was checked before, so only the values between need the check, and everything that depends on the other lines
carries over: framing, host, the client's address, and most of the lines for the upstream
(``docs/decisions/036-values-that-vary.md``).
"""

from __future__ import annotations

from collections.abc import Callable

from passerelle.http.messages import NOT_FOR_PARTS
from passerelle.http1.field_lines import WITHOUT_CONTROLS, FieldLine
from passerelle.http1.head import RequestHead

# A variation is learned when so many heads neither repeated the last one nor fitted the known variation: learning takes
# as long as to parse three heads, and must not be tried for each head of a connection whose heads never settle.
_LEARN_AT = frozenset({2, 4, 8, 16, 32, 64, 128, 256})


class Variation:
    """The lines ``first`` to ``end`` (exclusive) of a head that vary, and the head ``template`` for all others.

    ``before`` are the octets up to the value of the first of these lines, its name included, and ``after`` those from
    the CRLF of the last one on: a head that fits has them from 0 to ``start``, and from ``stop`` (negative) on.
    ``match`` matches what is between if it is well-formed and has the names of the other lines; None for one line.

    ``upstream`` and ``parts`` are the octets around the same values in the lines for the upstream and for parts of a
    composition: None until such lines are known, and empty if they do not contain these. ``named`` has the lines of
    fields that guards ask for, of which none varies. ``shared`` is what each head takes from the template.
    """

    __slots__ = (
        "after",
        "before",
        "end",
        "first",
        "match",
        "named",
        "parts",
        "shared",
        "start",
        "stop",
        "template",
        "upstream",
    )

    def __init__(self, template: RequestHead, first: int, end: int, match: Callable[[bytes], object] | None) -> None:
        lines = template.section.split(b"\r\n")
        self.template = template
        self.first = first
        self.end = end
        name = lines[first].partition(b":")[0]
        self.before = b"".join([line + b"\r\n" for line in lines[:first]]) + name + b":"
        self.after = b"\r\n" + b"\r\n".join(lines[end:])
        self.start, self.stop = len(self.before), -len(self.after)
        self.match = match
        self.upstream: tuple[bytes, ...] | None = None
        self.parts: tuple[bytes, ...] | None = None
        self.named: dict[bytes, list[FieldLine]] = {}
        # In the order in which VariedHead stores them.
        self.shared = (
            template.layout,
            template.other_layout,
            template._framing,
            template._nominated,
            template.authority,
            template.chunked,
            template.content_length,
            template.debug,
            template.expect,
            template.forwarded,
            template.host,
            template.plain,
            template.upgrade,
            template.user_agent,
            template.chain,
            template.cache_origin,
        )
        self.derive(template)

    def derive(self, head: RequestHead) -> None:
        """Find the values that vary in what was derived from ``head``, which has all else from the template."""
        if self.upstream is None and head.upstream is not None:
            self.upstream = self._around(head, head.upstream)
        if self.parts is None and head.part_fields is not None:
            names = head.layout.names[self.first : self.end]
            self.parts = self._around(head, head.part_fields) if NOT_FOR_PARTS.isdisjoint(names) else ()

    def _around(self, head: RequestHead, derived: bytes) -> tuple[bytes, ...]:
        """Return the octets before and after the values that vary in ``derived``.

        ``derived`` begins with those lines of ``head`` that are forwarded. Whether one is depends on its name.
        """
        position = 0
        for line in self.before.splitlines(keepends=True):  # the last one is a name
            if derived.startswith(line, position):
                position += len(line)
        varying = head.section[self.start : self.stop]
        if not derived.startswith(varying, position):
            return ()
        return derived[:position], derived[position + len(varying) :]


class VariedHead(RequestHead):
    """A head with ``varying`` from ``section`` in the place of what varies, and all else as in the template."""

    __slots__ = ()

    def __init__(self, section: bytes, varying: bytes, variation: Variation, misses: int) -> None:
        self.section = section
        self.variation = variation
        self.misses = misses
        (
            self.layout,
            self.other_layout,
            self._framing,
            self._nominated,
            self.authority,
            self.chunked,
            self.content_length,
            self.debug,
            self.expect,
            self.forwarded,
            self.host,
            self.plain,
            self.upgrade,
            self.user_agent,
            self.chain,
            self.cache_origin,
        ) = variation.shared
        self._match = self._split = self.cache_view = self.part_view = None
        around = variation.upstream
        self.upstream = around[0] + varying + around[1] if around else None
        around = variation.parts
        self.part_fields = around[0] + varying + around[1] if around else None

    def _line(self, number: int) -> bytes:
        variation = self.variation
        if variation.first <= number < variation.end:
            return self._lines[number]
        line: bytes = variation.template._line(number)
        return line

    def named(self, name: bytes) -> list[FieldLine]:
        """Return the lines of the field ``name`` (lower case), in the order received. The list is shared."""
        variation: Variation = self.variation
        known = variation.named.get(name)
        if known is None:
            known = super().named(name)
            numbers = self.layout.at.get(name)
            # Only fields that the head has: those of its layout bound their number.
            if numbers and not any(variation.first <= number < variation.end for number in numbers):
                variation.named[name] = known
        return known


def next_head(section: bytes, max_fields: int, last: RequestHead | None) -> RequestHead:
    """Parse ``section``, which differs from that of ``last``, the last head of the connection. See ``RequestHead``."""
    if last is None:
        return RequestHead(section, max_fields)
    variation: Variation | None = last.variation
    if variation is not None:
        varying = section[variation.start : variation.stop]
        # One comparison, and one translation of a single value, are 3,000 instructions fewer than `startswith`,
        # `endswith` and a pattern for the line.
        if variation.before + varying + variation.after == section and (
            varying.translate(WITHOUT_CONTROLS) == varying
            if variation.match is None
            else variation.match(varying) is not None
        ):
            unknown = (variation.upstream is None and last.upstream is not None) or (
                variation.parts is None and last.part_fields is not None
            )
            if unknown and type(last) is VariedHead:
                variation.derive(last)
            return VariedHead(section, varying, variation, last.misses)
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
    if not all(layout.varies[first:end]):
        return None
    match = None
    if end - first > 1 and (match := layout.match_values(first, end)) is None:
        return None
    # A head of its own: that of a connection keeps a variation, and so other templates.
    template = RequestHead(last.section, len(layout.names), last)
    template.chain, template.cache_origin = last.chain, last.cache_origin
    template.upstream, template.part_fields = last.upstream, last.part_fields
    return Variation(template, first, end, match)
