"""One answer out of several: ask for every part at once, wait, and splice the parts' JSON into one document.

Pure given a ``start_part``: nothing here knows of sockets. Part bodies are checked as JSON (RFC 8259) and put in as the
bytes they were, so no number, key order or duplicate name changes form. Keys are the configuration's: parts cannot
collide.

=====================================  =======================================================================
what a part did                        what becomes of it
=====================================  =======================================================================
2xx with a JSON body                   its bytes, whatever value they are (``null``, ``[1]`` and ``"s"`` too)
a status in its ``pass_status``        the whole answer is that answer (required parts only)
no answer in its time                  failed: 504 if required
anything else                          failed: 502 if required
=====================================  =======================================================================

"Anything else" is: another status (401 and 403 too: a part's refusal must not look like success, nor like a refusal of
the whole), an empty body, 204, a body that is not JSON or says that it is something else, a content coding that was not
asked for and cannot be undone, a connection that broke off. A part that is not required is replaced by its
fallback and named in ``partial``. When a required part fails the others are cancelled.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import orjson

from passerelle.errors import Failure, Kind


class CompositionPart(NamedTuple):
    """One part as configured. ``fallback`` is JSON that replaces it when it fails; None makes it required."""

    name: str
    fallback: bytes | None = None
    pass_status: frozenset[int] = frozenset()


class ComposedResponse(NamedTuple):
    """The whole answer: a JSON object, and the names of the parts that were replaced."""

    body: bytes
    partial: tuple[str, ...]


class PassedResponse(NamedTuple):
    """A required part's answer that is the whole answer (``pass_status``)."""

    name: str
    status: int
    media_type: bytes
    body: bytes


class Cancellable(Protocol):
    """A call under way."""

    def cancel(self) -> None:
        """Its answer is not wanted any more."""


Outcome = ComposedResponse | PassedResponse | Failure

MAX_DECODED = 10 * 1024 * 1024
"""A part's body after undoing its content coding, in bytes."""


class Composition:
    """The parts of one route, and the fixed bytes between them."""

    __slots__ = ("_template", "parts")

    def __init__(self, parts: Sequence[CompositionPart]) -> None:
        if not parts:
            raise ValueError("a composition needs a part")
        self.parts = tuple(parts)
        members = [orjson.dumps(part.name).replace(b"%", b"%%") + b":%b" for part in parts]
        self._template = b"{" + b",".join(members) + b"}"

    def splice(self, values: Sequence[bytes]) -> bytes:
        """The document: one value (JSON) per part, in order."""
        return self._template % tuple(values)


class Gather:
    """One composed answer under way: ``on_outcome`` is called once, with its outcome, unless it is cancelled first."""

    __slots__ = ("_composition", "_done", "_missing", "_on_outcome", "_partial", "_running", "_values")

    def __init__(self, composition: Composition, on_outcome: Callable[[Outcome], None]) -> None:
        self._composition = composition
        self._on_outcome = on_outcome
        self._missing = len(composition.parts)
        self._values: list[bytes] = [b""] * self._missing
        self._partial: list[int] = []
        self._running: list[Cancellable] = []
        self._done = False

    def start(self, start_part: Callable[[int, Gather], Cancellable]) -> None:
        """Call every part: ``start_part(index, self)`` must lead to one :meth:`on_part` or :meth:`on_part_failure` of
        that index."""
        for index in range(len(self._composition.parts)):
            started = start_part(index, self)
            if self._done:
                started.cancel()
                return
            self._running.append(started)

    def on_part(self, index: int, status: int, media_type: bytes, coding: bytes, body: bytes) -> None:
        """A part's whole answer came; ``media_type`` and ``coding`` are its Content-Type and Content-Encoding."""
        part = self._composition.parts[index]
        if part.fallback is None and status in part.pass_status:
            self._finish(PassedResponse(part.name, status, media_type, body))
            return
        try:
            value = json_value(status, media_type, coding, body)
        except Failure as failure:
            self.on_part_failure(index, failure)
            return
        self._set_value(index, value)

    def on_part_failure(self, index: int, failure: Failure) -> None:
        """A part could not be had."""
        part = self._composition.parts[index]
        if part.fallback is None:
            kind = Kind.TIMEOUT if failure.status == 504 else Kind.PART_FAILED
            if failure.kind in (Kind.NO_INSTANCE, Kind.OVERLOADED):
                kind = failure.kind
            self._finish(Failure(kind, f"part {part.name}: {failure}", public=f"part {part.name}"))
        else:
            self._partial.append(index)
            self._set_value(index, part.fallback)

    def cancel(self) -> None:
        """Nobody wants the whole any more: cancel every part."""
        self._done = True
        calls, self._running = self._running, []
        for start_part in calls:
            start_part.cancel()

    def _set_value(self, index: int, value: bytes) -> None:
        if self._done:
            return
        self._values[index] = value
        self._missing -= 1
        if self._missing == 0:
            self._done = True
            self._running = []
            names = tuple(self._composition.parts[i].name for i in sorted(self._partial)) if self._partial else ()
            self._on_outcome(ComposedResponse(self._composition.splice(self._values), names))

    def _finish(self, outcome: Outcome) -> None:
        if self._done:
            return
        self.cancel()
        self._on_outcome(outcome)


def json_value(status: int, media_type: bytes, coding: bytes, body: bytes) -> bytes:
    """The JSON value in a part's answer, as the bytes that came; a Failure(PART_FAILED) when there is none."""
    if not 200 <= status < 300:
        raise Failure(Kind.PART_FAILED, f"status {status}")
    if coding and coding.lower() != b"identity":
        body = _decode(coding.lower(), body)
    if not body:
        raise Failure(Kind.PART_FAILED, f"status {status} without a body")
    if media_type != b"application/json" and not _says_json(media_type):
        raise Failure(Kind.PART_FAILED, "the answer does not say that it is JSON")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Failure(Kind.PART_FAILED, f"not JSON: {error}") from None
    return body


def _says_json(media_type: bytes) -> bool:
    """``application/json``, any ``+json`` (RFC 6839 §3.1), or nothing said at all."""
    essence = media_type.partition(b";")[0].strip(b" \t").lower()
    return essence in (b"", b"application/json") or essence.endswith(b"+json")


def _decode(coding: bytes, body: bytes) -> bytes:
    """``body`` without its gzip or deflate coding (RFC 9110 §8.4.1); a Failure when that cannot be undone."""
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Failure(Kind.PART_FAILED, "a content coding that was not asked for")
    window = 15 if coding == b"deflate" else 31
    decoder = zlib.decompressobj(window)
    try:
        decoded = decoder.decompress(body, MAX_DECODED)
    except zlib.error as error:
        raise Failure(Kind.PART_FAILED, f"broken content coding: {error}") from None
    if not decoder.eof:
        raise Failure(Kind.PART_FAILED, "content coding cut short, or too large")
    return decoded
