"""Compare two responses: status, chosen header fields, and body."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from passerelle.crossing.compare_json import Difference, Incomparable, JsonComparer, JsonRules, Kind

MAX_BODY: Final = 1 << 20
"""The longest body that is compared, in bytes; a longer one is not compared, and is counted."""
DEFAULT_FIELDS: Final = (b"content-type", b"location")
"""The header fields that are compared by default."""


@dataclass(frozen=True, slots=True)
class CapturedResponse:
    """What is compared of a response. Names in ``fields`` are in lower case; ``body`` may have a content coding."""

    status: int
    fields: Mapping[bytes, bytes]
    body: bytes
    complete: bool = True  # the whole body was received, and it is not longer than MAX_BODY


class ResponseComparer:
    """Compares responses by the same rules."""

    __slots__ = ("_fields", "_json")

    def __init__(self, rules: JsonRules, fields: tuple[bytes, ...] = DEFAULT_FIELDS) -> None:
        self._json = JsonComparer(rules)
        self._fields = fields

    def compare(self, old: CapturedResponse, new: CapturedResponse) -> list[Difference]:
        """Return the differences.

        Responses with different statuses have that difference only: their bodies mean different things.

        :raises Incomparable: if a body is incomplete, or exceeds the bounds of :mod:`.compare_json`.
        """
        if old.status != new.status:
            return [Difference((), Kind.STATUS, old.status, new.status)]
        found = []
        for name in self._fields:
            one, other = old.fields.get(name), new.fields.get(name)
            if one != other and not (name == b"content-type" and _same_type(one, other)):
                path = (name.decode("ascii"),)
                found.append(Difference(path, Kind.FIELD, _text(one), _text(other)))
        if old.body == new.body and old.complete and new.complete:
            return found
        if not (old.complete and new.complete):
            raise Incomparable("the body is too long or was cut")
        old, new = _decoded(old), _decoded(new)
        if old.body == new.body:
            return found
        if _is_json(old) and _is_json(new):
            try:
                documents = orjson.loads(old.body), orjson.loads(new.body)
            except orjson.JSONDecodeError:
                pass  # compared as bytes
            else:
                return found + self._json.compare(*documents)
        return [*found, Difference((), Kind.BODY, _text(old.body), _text(new.body))]


def _decoded(response: CapturedResponse) -> CapturedResponse:
    """Return ``response`` without its content coding (RFC 9110 §8.4.1).

    :raises Incomparable: if the coding is not gzip or deflate, or the body is longer than MAX_BODY when decoded.
    """
    coding = response.fields.get(b"content-encoding", b"identity").strip().lower()
    if coding == b"identity":
        return response
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Incomparable("the content coding is not supported")
    decoder = zlib.decompressobj(15 if coding == b"deflate" else 31)
    try:
        body = decoder.decompress(response.body, MAX_BODY)
    except zlib.error:
        raise Incomparable("the content coding is broken") from None
    if not decoder.eof:
        raise Incomparable("the body is too long or was cut")
    return replace(response, body=body)


def _is_json(response: CapturedResponse) -> bool:
    """Return whether the media type is JSON or has the suffix +json (RFC 6839 §3.1)."""
    media = response.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return media == b"application/json" or media.endswith(b"+json")


def _same_type(one: bytes | None, other: bytes | None) -> bool:
    """Return whether two media types differ in case and blanks only (RFC 9110 §8.3.1)."""
    if one is None or other is None:
        return False
    return one.replace(b" ", b"").lower() == other.replace(b" ", b"").lower()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
