"""Composition: request several parts at once, and splice their JSON bodies into one document.

There is no I/O here: ``start_part`` requests a part. Bodies are checked as JSON (RFC 8259) and inserted unchanged, so
that numbers, the order of keys and duplicate names keep their form. The keys of the document are those of the
configuration, so parts cannot collide.

=====================================  =======================================================================
response of a part                     effect
=====================================  =======================================================================
2xx with a JSON body                   its bytes are inserted, whatever the value (also ``null``, ``[1]``, ``"s"``)
a status in its ``pass_status``        this response is sent as the whole (required parts only)
none within its timeout                the part has failed: 504 if it is required
anything else                          the part has failed: 502 if it is required
=====================================  =======================================================================

"Anything else" is: another status (also 401 and 403: the refusal of a part must not look like success, nor like a
refusal of the whole), an empty body, 204, a body that is not JSON or is declared as something else, a content coding
that cannot be decoded, a broken connection. An optional part that failed is replaced by its fallback and named in
``partial``. When a required part fails, the others are cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import orjson

from passerelle.compose.json_steps import AT_ONCE, StepQueue, Steps, decode_steps, json_steps, prepare
from passerelle.errors import Failure, Kind


class CompositionPart(NamedTuple):
    """A configured part. ``fallback`` is the JSON that replaces a failed part; None makes the part required."""

    name: str
    fallback: bytes | None = None
    pass_status: frozenset[int] = frozenset()


class ComposedResponse(NamedTuple):
    """A composed response: a JSON object, and the names of the parts replaced by their fallback."""

    body: bytes
    partial: tuple[str, ...]


class PassedResponse(NamedTuple):
    """The response of a required part that is sent as the whole (``pass_status``)."""

    name: str
    status: int
    media_type: bytes
    body: bytes


class Cancellable(Protocol):
    """The request for one part, in flight."""

    def cancel(self) -> None:
        """Cancel the request."""


Outcome = ComposedResponse | PassedResponse | Failure


class Composition:
    """The parts of one route, and the bytes of the document between them; ``steps`` runs the checks of long parts."""

    __slots__ = ("_template", "parts", "steps")

    def __init__(self, parts: Sequence[CompositionPart], steps: StepQueue | None = None) -> None:
        if not parts:
            raise ValueError("a composition needs a part")
        self.parts = tuple(parts)
        prepare()
        self.steps = StepQueue() if steps is None else steps
        members = [orjson.dumps(part.name).replace(b"%", b"%%") + b":%b" for part in parts]
        self._template = b"{" + b",".join(members) + b"}"

    def splice(self, values: Sequence[bytes]) -> bytes:
        """Return the document with ``values``: one JSON value for each part, in order."""
        return self._template % tuple(values)


class Gather:
    """The parts of one request. Unless it is cancelled, ``on_outcome`` is called once with the outcome."""

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
        """Request every part with ``start_part(index, self)``.

        Each of these calls must lead to one call of :meth:`on_part` or :meth:`on_part_failure` with that index.
        """
        for index in range(len(self._composition.parts)):
            started = start_part(index, self)
            if self._done:
                started.cancel()
                return
            self._running.append(started)

    def on_part(self, index: int, status: int, media_type: bytes, coding: bytes, body: bytes) -> None:
        """Take the response of a part; ``media_type`` and ``coding`` are its Content-Type and Content-Encoding."""
        part = self._composition.parts[index]
        if part.fallback is None and status in part.pass_status:
            self._finish(PassedResponse(part.name, status, media_type, body))
            return
        if status == 200 and not coding and media_type == b"application/json" and 0 < len(body) <= AT_ONCE:
            try:
                orjson.loads(body)
            except orjson.JSONDecodeError:
                pass  # the steps decide
            else:
                self._set_value(index, body)
                return
        steps = value_steps(status, media_type, coding, body)
        self._composition.steps.run(steps, partial(self._on_step, index))

    def _on_step(self, index: int, outcome: bytes | Failure | None) -> bool:
        """Take the value of a part, or its failure; return whether further steps are needed."""
        if isinstance(outcome, Failure):
            self.on_part_failure(index, outcome)
        elif outcome is not None:
            self._set_value(index, outcome)
        return not self._done

    def on_part_failure(self, index: int, failure: Failure) -> None:
        """Take the failure of a part: use its fallback, or fail the whole."""
        part = self._composition.parts[index]
        if part.fallback is None:
            kind = Kind.TIMEOUT if failure.status == 504 else Kind.PART_FAILED
            if failure.kind in (Kind.NO_INSTANCE, Kind.OVERLOADED, Kind.PART_TOO_LARGE):
                kind = failure.kind
            self._finish(Failure(kind, f"part {part.name}: {failure}", public=f"part {part.name}"))
        elif not self._done:
            self._partial.append(index)
            self._set_value(index, part.fallback)

    def cancel(self) -> None:
        """Cancel every part."""
        self._done = True
        running, self._running = self._running, []
        for part in running:
            part.cancel()

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


def value_steps(status: int, media_type: bytes, coding: bytes, body: bytes) -> Steps:
    """Return the JSON value in the response of a part, as received, after bounded steps.

    :raises Failure: (``PART_FAILED``) if the response has no JSON value; (``PART_TOO_LARGE``) if it exceeds a limit.
    """
    if not 200 <= status < 300:
        raise Failure(Kind.PART_FAILED, f"status {status}")
    if coding and coding.lower() != b"identity":
        body = yield from decode_steps(coding.lower(), body)
    if not body:
        raise Failure(Kind.PART_FAILED, f"status {status} without a body")
    if media_type != b"application/json" and not _is_json_type(media_type):
        raise Failure(Kind.PART_FAILED, "the response is not declared as JSON")
    return (yield from json_steps(body))


def _is_json_type(media_type: bytes) -> bool:
    """Return whether this is ``application/json``, any ``+json`` (RFC 6839 §3.1), or no media type."""
    essence = media_type.partition(b";")[0].strip(b" \t").lower()
    return essence in (b"", b"application/json") or essence.endswith(b"+json")
