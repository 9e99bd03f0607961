"""Decode and check the body of a part in bounded steps, so that no body keeps the event loop from other requests.

The check is one of grammar (RFC 8259): nothing is built, so numbers of any size and escaped lone surrogates pass, and a
body takes no memory beyond its own. The functions that end in ``_steps`` are generators: each step takes a few
milliseconds at most, and the result is the generator's return value.
"""

from __future__ import annotations

import re
import zlib
from asyncio import get_running_loop
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Generator
from functools import cache
from typing import Final

import orjson

from passerelle.errors import Failure, Kind

MAX_DECODED: Final = 10 * 1024 * 1024
"""The longest body of a part after decoding its content coding, in bytes."""
MAX_DEPTH: Final = 1024
"""The greatest number of arrays and objects that are nested in one another."""
MAX_VALUES: Final = 1_000_000
"""The greatest number of commas and opening brackets in a body, which bounds the number of values."""
AT_ONCE: Final = 32 * 1024
"""The longest body that is parsed in one step, in bytes: 1 ms at most."""

_PIECE: Final = 32 * 1024  # bytes that one step searches or decodes
_WINDOW: Final = 16 * 1024  # bytes that one match of a pattern covers at most
_TURN: Final = 64  # one turn of the state machine takes as long as matching this number of bytes

Steps = Generator[None, None, bytes]


class StepQueue:
    """Runs generators in turns, one step in each iteration of the event loop, whatever their number."""

    __slots__ = ("_jobs", "_scheduled")

    def __init__(self) -> None:
        self._jobs: deque[tuple[Steps, Callable[[bytes | Failure | None], bool]]] = deque()
        self._scheduled = False

    def run(self, steps: Steps, proceed: Callable[[bytes | Failure | None], bool]) -> None:
        """Run ``steps``, the first one at once.

        ``proceed`` receives the result or the failure. It is called with None before each further step, and its result
        is whether that step is still needed.
        """
        outcome = _advance(steps)
        if outcome is not None:
            proceed(outcome)
            return
        self._jobs.append((steps, proceed))
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        steps, proceed = self._jobs.popleft()
        outcome: bytes | Failure | None = None
        needed = proceed(None)
        if needed:
            outcome = _advance(steps)
            if outcome is None:
                self._jobs.append((steps, proceed))
        if self._jobs:
            self._schedule()
        if outcome is not None:
            proceed(outcome)


def _advance(steps: Steps) -> bytes | Failure | None:
    """Run one step; return the result or the failure, None while there is more to do."""
    try:
        next(steps)
    except StopIteration as end:
        return bytes(end.value)
    except Failure as failure:
        return failure
    return None


def decode_steps(coding: bytes, body: bytes) -> Steps:
    """Decode gzip or deflate (RFC 9110 §8.4.1); ``coding`` is in lower case.

    :raises Failure: if ``body`` has another coding, cannot be decoded, or is longer than MAX_DECODED when decoded.
    """
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Failure(Kind.PART_FAILED, "a content coding that was not requested")
    decoder = zlib.decompressobj(15 if coding == b"deflate" else 31)
    pieces: list[bytes] = []
    size = spent = 0
    for start in range(0, len(body), _WINDOW):
        rest = body[start : start + _WINDOW]
        while rest and not decoder.eof:
            try:
                piece = decoder.decompress(rest, _PIECE)
            except zlib.error as error:
                raise Failure(Kind.PART_FAILED, f"broken content coding: {error}") from None
            rest = decoder.unconsumed_tail
            pieces.append(piece)
            size += len(piece)
            if size > MAX_DECODED:
                raise _too_large(f"more than {MAX_DECODED} bytes when decoded")
            spent += len(piece)
            if spent >= _PIECE:
                spent = 0
                yield
    decoded = b"".join(pieces)
    if not decoder.eof:
        raise Failure(Kind.PART_FAILED, "content coding truncated")
    return decoded


def json_steps(body: bytes) -> Steps:
    """Check that ``body`` is one JSON value in UTF-8 (RFC 8259), and return it.

    :raises Failure: if it is not, or if it exceeds MAX_DEPTH or MAX_VALUES.
    """
    if len(body) <= AT_ONCE:
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # perhaps only for a number or a surrogate that has no value in Python
        else:
            return body
    yield from _encoding_steps(body)
    yield from _grammar_steps(body)
    return body


def _encoding_steps(body: bytes) -> Generator[None, None, None]:
    """Check that ``body`` is UTF-8, and bound the number of its values."""
    decoder = getincrementaldecoder("utf-8")()
    values = 0
    try:
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            values += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
            if values > MAX_VALUES:
                raise _too_large(f"more than {MAX_VALUES} values")
            decoder.decode(piece)
            if start + _PIECE < len(body):
                yield
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _not_json("not UTF-8") from None


# No two ways to go on begin with the same byte, so matching takes linear time. Repetitions of single bytes are
# possessive; those of groups are not, for possessive groups end at wrong places in Python 3.11 before 3.11.5.
_SPACE: Final = rb"[ \t\n\r]*+"
_ESCAPE: Final = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_TEXT: Final = rb'[^"\\\x00-\x1f]*+(?:' + _ESCAPE + rb'[^"\\\x00-\x1f]*+)*'
_STRING: Final = rb'"' + _TEXT + rb'"'
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
# A number may be cut off where the match has to end, so one in a run needs its delimiter.
_SCALAR: Final = _STRING + rb"|" + _NUMBER + rb"(?=[ \t\n\r,\]}])|true|false|null"


def _array(item: bytes) -> bytes:
    return rb"\[%b(?:(?:%b)%b(?:,%b(?!\])|(?=\])))*\]" % (_SPACE, item, _SPACE, _SPACE)


def _object(item: bytes) -> bytes:
    member = rb"%b%b:%b(?:%b)" % (_STRING, _SPACE, _SPACE, item)
    return rb"\{%b(?:%b%b(?:,%b(?!\})|(?=\})))*\}" % (_SPACE, member, _SPACE, _SPACE)


@cache
def _runs() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Compile the patterns of further items of an array, and of further members of an object."""
    flat = _SCALAR + rb"|" + _array(_SCALAR) + rb"|" + _object(_SCALAR)
    item = _SCALAR + rb"|" + _array(flat) + rb"|" + _object(flat)
    items = rb"(?:%b,%b(?:%b))*" % (_SPACE, _SPACE, item)
    members = rb"(?:%b,%b%b%b:%b(?:%b))*" % (_SPACE, _SPACE, _STRING, _SPACE, _SPACE, item)
    return re.compile(items), re.compile(members)


def prepare() -> None:
    """Compile the patterns, which takes tens of milliseconds, before a request needs them."""
    _runs()


_SPACES = re.compile(_SPACE)
_TEXTS = re.compile(_TEXT)
_ATOM = re.compile(_NUMBER + rb"|true|false|null")

# What the state machine expects next. FIRST states also accept the end of the array or object.
_VALUE, _FIRST_VALUE, _NAME, _FIRST_NAME, _COLON, _MORE, _IN_VALUE, _IN_NAME = range(8)
_ARRAY, _OBJECT, _END_ARRAY, _END_OBJECT = b"[{]}"
_QUOTE, _COMMA, _COLON_BYTE = b'",:'
_CLOSING: Final = {_END_ARRAY: _ARRAY, _END_OBJECT: _OBJECT}


def _grammar_steps(text: bytes) -> Generator[None, None, None]:
    """Check the grammar of ``text``: single matches take runs of values with little nesting."""
    size, at, spent, state = len(text), 0, 0, _VALUE
    nested: list[int] = []
    more_items, more_members = _runs()
    while True:
        begun = at
        if state in (_IN_VALUE, _IN_NAME):
            at = _end(_TEXTS, text, at)
            if text[at : at + 1] == b'"':
                at += 1
                state = _MORE if state == _IN_VALUE else _COLON
            elif at in (begun, size):
                raise _not_json(f"in a string, at byte {at}")
        else:
            if state == _MORE and nested:
                at = _end(more_items if nested[-1] == _ARRAY else more_members, text, at)
            at = _end(_SPACES, text, at)
            if at == size:
                if state == _MORE and not nested:
                    return
                raise _not_json("it ends too early")
            byte = text[at]
            if byte in b" \t\n\r":
                pass  # more white space than one match takes
            elif state == _MORE:
                if not nested:
                    raise _not_json(f"more than one value, at byte {at}")
                if byte == _COMMA:
                    state = _VALUE if nested[-1] == _ARRAY else _NAME
                elif _CLOSING.get(byte) == nested[-1]:
                    nested.pop()
                else:
                    raise _not_json(f"at byte {at}")
                at += 1
            elif state == _COLON:
                if byte != _COLON_BYTE:
                    raise _not_json(f"at byte {at}")
                at += 1
                state = _VALUE
            elif (state == _FIRST_VALUE and byte == _END_ARRAY) or (state == _FIRST_NAME and byte == _END_OBJECT):
                nested.pop()
                at += 1
                state = _MORE
            elif byte == _QUOTE:
                at += 1
                state = _IN_VALUE if state in (_VALUE, _FIRST_VALUE) else _IN_NAME
            elif state in (_NAME, _FIRST_NAME):
                raise _not_json(f"at byte {at}")
            elif byte in (_ARRAY, _OBJECT):
                if len(nested) == MAX_DEPTH:
                    raise _too_large(f"nested more than {MAX_DEPTH} deep")
                nested.append(byte)
                at += 1
                state = _FIRST_VALUE if byte == _ARRAY else _FIRST_NAME
            else:
                after = _end(_ATOM, text, at)
                if after == at:
                    raise _not_json(f"at byte {at}")
                if after - at == _WINDOW:
                    raise _too_large(f"a number of {_WINDOW} or more characters")
                at = after
                state = _MORE
        spent += _TURN + at - begun
        if spent > _PIECE:
            spent = 0
            yield


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return where the match of ``pattern`` at ``at`` ends, within _WINDOW bytes; ``at`` if there is none."""
    match = pattern.match(text, at, at + _WINDOW)
    return at if match is None else match.end()


def _not_json(why: str) -> Failure:
    return Failure(Kind.PART_FAILED, f"not JSON: {why}")


def _too_large(why: str) -> Failure:
    return Failure(Kind.PART_TOO_LARGE, why)
