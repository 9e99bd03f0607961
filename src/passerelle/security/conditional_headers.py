"""Header rules with conditions: which messages they apply to, and fields that are added only where they are absent."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from passerelle.security.header_rules import RequestHeaderRules, lines_of

_CONTENT_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([^;\r\n]*)", re.IGNORECASE)


class HeadCondition:
    """A condition on the head of a message. All parts that are given must hold.

    ``statuses`` are those of a response, three digits or a digit and ``xx``. Fields are ``present`` or ``absent`` under
    any spelling of their names; with ``aliases`` also under those that CGI and WSGI do not distinguish. ``types`` are
    media types in lower case, ``text/*`` for all texts.
    """

    __slots__ = ("_absent", "_present", "_statuses", "_types")

    def __init__(
        self,
        statuses: Collection[bytes],
        present: Collection[bytes],
        absent: Collection[bytes],
        types: Collection[bytes],
        *,
        aliases: bool = False,
    ) -> None:
        self._statuses = frozenset(statuses)
        self._present = [lines_of([name], aliases=aliases) for name in present]
        self._absent = lines_of(absent, aliases=aliases) if absent else None
        self._types = frozenset(types)

    def holds(self, head: bytes) -> bool:
        """Return whether it holds for ``head``, in which a CRLF precedes each field line."""
        if self._statuses and head[9:12] not in self._statuses and head[9:10] + b"xx" not in self._statuses:
            return False
        if self._absent is not None and self._absent.search(head) is not None:
            return False
        if any(pattern.search(head) is None for pattern in self._present):
            return False
        return not self._types or self._has_type(head)

    def _has_type(self, head: bytes) -> bool:
        found = _CONTENT_TYPE.search(head)
        if found is None:
            return False
        media_type = found[1].strip(b" \t").lower()
        return media_type in self._types or media_type.partition(b"/")[0] + b"/*" in self._types


class ResponseEdit:
    """Changes to the head of a response: fields to remove, lines to add, and lines of fields that may be absent."""

    __slots__ = ("_added", "_condition", "_defaults", "_strip")

    def __init__(
        self,
        condition: HeadCondition | None,
        strip: Collection[bytes],
        added: bytes,
        defaults: Mapping[bytes, bytes],
    ) -> None:
        """``strip`` names fields; ``added`` are lines with CRLF; ``defaults`` has values by name."""
        self._condition = condition
        self._strip = lines_of(strip) if strip else None
        self._added = added
        self._defaults = [(lines_of([name]), b"%b: %b\r\n" % (name, value)) for name, value in defaults.items()]

    def applies(self, head: bytes) -> bool:
        """Return whether the changes are for the response with this ``head``."""
        return self._condition is None or self._condition.holds(head)

    def apply(self, head: bytes) -> bytes:
        """Return ``head`` (status line and field lines, each with CRLF) with the changes."""
        if self._strip is not None:
            head = self._strip.sub(b"", head)
        head += self._added
        for pattern, line in self._defaults:
            if pattern.search(head) is None:
                head += line
        return head


class RequestEdit:
    """Changes to the fields that services receive; values may contain parameters of the path."""

    __slots__ = ("_condition", "_defaults", "_rules")

    def __init__(
        self, condition: HeadCondition | None, rules: RequestHeaderRules, defaults: Mapping[bytes, bytes]
    ) -> None:
        self._condition = condition
        self._rules = rules
        self._defaults = [
            (lines_of([name], aliases=True), RequestHeaderRules({}, {name: value}, []))
            for name, value in defaults.items()
        ]

    def applies(self, section: bytes) -> bool:
        """Return whether the changes are for a request with ``section``, in which a CRLF precedes each line."""
        return self._condition is None or self._condition.holds(section)

    def apply(self, section: bytes, params: Mapping[str, bytes]) -> bytes:
        """Return the section (CRLF after each line) with the changes."""
        section = self._rules.apply(section, params)
        for pattern, rule in self._defaults:
            if pattern.search(b"\r\n" + section) is None:
                section = rule.apply(section, params)
        return section


class ConditionalRequestRules(RequestHeaderRules):
    """Request header rules of which some have conditions: these are judged before any rule changes a field."""

    __slots__ = ("_edits",)

    def __init__(self, edits: Sequence[RequestEdit]) -> None:
        self._edits = tuple(edits)

    def apply(self, section: bytes, params: Mapping[str, bytes]) -> bytes:
        """Return the section (CRLF after each line) as the service receives it."""
        original = b"\r\n" + section
        for edit in [edit for edit in self._edits if edit.applies(original)]:
            section = edit.apply(section, params)
        return section
