"""Response heads with field lines that the cache adds or removes."""

from __future__ import annotations

from passerelle.caching.response import TAG_FIELDS, OriginResponse
from passerelle.http1.head import ResponseHead


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
    """Return the tags of a response, also after :func:`without_tags`."""
    if isinstance(head, HeadWithoutTags):
        return head.tags
    return OriginResponse(head.status, head.fields, request_time=0.0, response_time=0.0).tags()


def without_tags(head: ResponseHead) -> ResponseHead:
    """Return ``head`` without the fields that contain its tags, which are for the cache and not for clients."""
    if not any(line.name in TAG_FIELDS for line in head.lines):
        return head
    first, *lines = head.raw[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in TAG_FIELDS]
    return HeadWithoutTags(b"\r\n".join([first, *kept, b"", b""]), tags_of(head))
