"""Response heads with field lines that the cache adds or removes."""

from __future__ import annotations

from typing import Final

from passerelle.caching.freshness import age_seconds
from passerelle.caching.response import TAG_FIELDS, OriginResponse
from passerelle.http1.head import ResponseHead

_EDITED: Final = TAG_FIELDS | {b"age"}


class AnnotatedHead(ResponseHead):
    """A head with the gateway's ``added_lines`` (each with CRLF) after the fields of upstream."""

    __slots__ = ("added_lines",)

    def __init__(self, raw: bytes, added_lines: bytes) -> None:
        super().__init__(raw)
        self.added_lines = added_lines
        self.relay += added_lines
        self.whole = None if self.whole is None else self.relay + b"\r\n"


class HeadWithoutTags(ResponseHead):
    """A head without the fields that contained its ``tags``."""

    __slots__ = ("tags",)

    def __init__(self, raw: bytes, tags: tuple[bytes, ...]) -> None:
        super().__init__(raw)
        self.tags = tags


def tags_of(head: ResponseHead) -> tuple[bytes, ...]:
    """Return the tags of a response, also after :func:`for_clients`."""
    if isinstance(head, HeadWithoutTags):
        return head.tags
    return OriginResponse(head.status, head.fields, request_time=0.0, response_time=0.0).tags()


def for_clients(head: ResponseHead) -> ResponseHead:
    """Return ``head`` as clients receive it from a cache.

    The fields that contain its tags, which are for the cache, are removed. Of an Age, the first member is kept if it is
    valid: other members and a malformed Age are ignored (RFC 9111 §5.1), which clients must not have to do.
    """
    if not any(name in head.layout.at for name in _EDITED):
        return head
    first, *lines = head.raw[:-4].split(b"\r\n")
    kept: list[bytes] = []
    edited = has_age = False
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"age":
            seconds = None if has_age else age_seconds(value)
            has_age = True
            shown = None if seconds is None else b"%b: %d" % (line[:3], seconds)
            edited = edited or shown != line
            if shown is not None:
                kept.append(shown)
        elif name in TAG_FIELDS:
            edited = True
        else:
            kept.append(line)
    return HeadWithoutTags(b"\r\n".join([first, *kept, b"", b""]), tags_of(head)) if edited else head
