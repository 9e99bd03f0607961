"""Content codings (RFC 9110 §8.4): choosing one, applying it, and what the fields must say afterwards.

gzip is the standard library's; br and zstd are there when their packages are. All of it is pure: a response goes in,
another one comes out, or none where a rule forbids recoding it. What comes in pieces goes out in pieces.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from passerelle.http.messages import Fields, combined, get, list_members

# The gateway's own order among codings that a client accepts alike: zstd and br make about the same size, zstd in a
# fraction of the time.
PREFERRED: Final = (b"zstd", b"br", b"gzip")

# Below this a coded body saves no packet and costs both sides time.
SMALLEST: Final = 256

_WEIGHT = re.compile(rb"[ \t]*;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*", re.IGNORECASE)

# Media types worth coding beside text/*, and whatever says that it is JSON or XML (RFC 6839).
_TYPES: Final = frozenset(
    {
        b"application/graphql",
        b"application/javascript",
        b"application/json",
        b"application/manifest+json",
        b"application/wasm",
        b"application/x-javascript",
        b"application/x-ndjson",
        b"application/xml",
        b"font/otf",
        b"font/ttf",
        b"image/svg+xml",
    }
)

# Levels by measure on JSON of 2, 20 and 200 kB; the next step takes half as much time again or more for under 3 % of
# size. Of 20 kB they make 21, 20 and 19 % in 130, 97 and 45 us.
_GZIP_LEVEL: Final = 5
_BROTLI_QUALITY: Final = 3
_ZSTD_LEVEL: Final = 1


def _gzip(body: bytes) -> bytes:
    # zlib's gzip container without a name and time: the same body always makes the same bytes.
    coder = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return coder.compress(body) + coder.flush()


# A coder for a body in pieces: (code a piece, end). Each piece comes out whole: nothing of it waits for the next (B17).
Stream = tuple[Callable[[bytes], bytes], Callable[[], bytes]]


def _gzip_stream() -> Stream:
    coder = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return lambda piece: coder.compress(piece) + coder.flush(zlib.Z_SYNC_FLUSH), coder.flush


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _coders() -> dict[bytes, Callable[[bytes], bytes]]:
    coders: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": _gzip}
    brotli = _optional("brotli")
    if brotli is not None:
        coders[b"br"] = lambda body: bytes(brotli.compress(body, quality=_BROTLI_QUALITY))
    zstandard = _optional("zstandard")
    if zstandard is not None:
        coders[b"zstd"] = lambda body: bytes(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body))
    return coders


def _streams() -> dict[bytes, Callable[[], Stream]]:
    streams: dict[bytes, Callable[[], Stream]] = {b"gzip": _gzip_stream}
    brotli = _optional("brotli")
    if brotli is not None:

        def brotli_stream() -> Stream:
            coder = brotli.Compressor(quality=_BROTLI_QUALITY)
            return lambda piece: coder.process(piece) + coder.flush(), coder.finish

        streams[b"br"] = brotli_stream
    zstandard = _optional("zstandard")
    if zstandard is not None:
        block = zstandard.COMPRESSOBJ_FLUSH_BLOCK

        def zstandard_stream() -> Stream:
            coder = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
            return lambda piece: coder.compress(piece) + coder.flush(block), coder.flush

        streams[b"zstd"] = zstandard_stream
    return streams


_CODERS: Final = _coders()
_STREAMS: Final = _streams()

# What this installation can do, the preferred first.
AVAILABLE: Final = tuple(name for name in PREFERRED if name in _CODERS)


class CodingRule(NamedTuple):
    """Of which responses the bodies are coded, and how: the codings offered, the preferred first; the shortest body, in
    bytes; the media types (``type/*`` for all of a kind), None for those of :func:`is_compressible`."""

    codings: tuple[bytes, ...] = AVAILABLE
    smallest: int = SMALLEST
    types: frozenset[bytes] | None = None


DEFAULT_RULE: Final = CodingRule()


@lru_cache(maxsize=256)
def _chosen(accept_encoding: bytes, offered: tuple[bytes, ...]) -> bytes | None:
    return choose(accept_encoding, offered)


# Longer values are read anew each time: what is remembered stays bounded in bytes.
_LONGEST_REMEMBERED: Final = 128


def select_coding(request: Iterable[tuple[bytes, bytes]], rule: CodingRule) -> bytes | None:
    """The coding of the answer to a request with these fields, None for none: also where the client itself forbids to
    transform (RFC 9111 §5.2.1.6)."""
    accepted: bytes | None = None
    for name, value in request:
        if name == b"accept-encoding":
            accepted = value if accepted is None else accepted + b"," + value
        elif name == b"cache-control" and _NO_TRANSFORM.search(value):
            return None
    if accepted is None:
        return None
    if len(accepted) > _LONGEST_REMEMBERED:
        return choose(accepted, rule.codings)
    return _chosen(accepted, rule.codings)


def choose(accept_encoding: bytes | None, offered: Iterable[bytes] = AVAILABLE) -> bytes | None:
    """The coding to answer with, or None for none (RFC 9110 §12.5.3).

    The highest weight wins, and among equals the first of ``offered``. Without the field, or where it prefers
    ``identity``, nothing is coded: a client that says nothing may not be able to decode.
    """
    if accept_encoding is None:
        return None
    weights: dict[bytes, float] = {}
    for member in list_members(accept_encoding):
        name, _, rest = member.partition(b";")
        weight = 1.0
        if rest:
            match = _WEIGHT.fullmatch(b";" + rest)
            if match is None:
                continue
            weight = min(float(match[1]), 1.0)
        name = name.strip(b" \t").lower()
        weights[b"gzip" if name == b"x-gzip" else name] = weight
    star = weights.get(b"*", 0.0)
    best: bytes | None = None
    highest = weights.get(b"identity", 0.0)
    for name in offered:
        weight = weights.get(name, star)
        # Coded is preferred to identity of the same weight: that is what the client asked for by naming it.
        if weight > 0 and (weight > highest or (best is None and weight == highest)):
            best, highest = name, weight
    return best


def is_compressible(media_type: bytes | None, types: frozenset[bytes] | None = None) -> bool:
    """Whether bodies of this media type get smaller; images, video and archives are coded already.

    ``types`` are those to take instead, lower case, ``type/*`` for all of a kind. Events never: they must not wait.
    """
    if media_type is None:
        return False
    kind = media_type.partition(b";")[0].strip(b" \t").lower()
    if kind == b"text/event-stream":
        return False
    if types is not None:
        return kind in types or kind.partition(b"/")[0] + b"/*" in types
    return kind.startswith(b"text/") or kind in _TYPES or kind.endswith((b"+json", b"+xml"))


# A digest of the content, or of the representation with its coding (RFC 9530 §2, §3), holds no longer once it is coded.
_FORBIDDING: Final = (
    b"content-encoding",
    b"content-range",
    b"content-md5",
    b"content-digest",
    b"digest",
    b"repr-digest",
)


def is_codable(status: int, fields: Fields, length: int, rule: CodingRule = DEFAULT_RULE) -> bool:
    """Whether a response with a body of ``length`` bytes, -1 while that is unknown, may and should be coded.

    Not where ``no-transform`` forbids it (RFC 9110 §7.7), where it is coded already, where it is a part (206) or has no
    body, nor where a digest of the content would no longer be true.
    """
    if status < 200 or status in (204, 206, 304) or 0 <= length < rule.smallest:
        return False
    if any(get(fields, name) is not None for name in _FORBIDDING):
        return False
    control = combined(fields, b"cache-control")
    if control is not None and _NO_TRANSFORM.search(control):
        return False
    return is_compressible(get(fields, b"content-type"), rule.types)


# Also found inside a quoted string: to refrain without need does no harm.
_NO_TRANSFORM = re.compile(rb"no-transform", re.IGNORECASE)


def encode(coding: bytes, body: bytes) -> bytes:
    """``body`` in ``coding``, one of AVAILABLE; the same bytes for the same body."""
    return _CODERS[coding](body)


def stream(coding: bytes) -> Stream:
    """A coder of one body in pieces, in ``coding``, one of AVAILABLE."""
    return _STREAMS[coding]()


def coded_fields(fields: Fields, coding: bytes, length: int) -> Fields:
    """``fields`` as they must be with a body in ``coding`` (RFC 9110 §8.4, §8.6, §8.8.3, §12.5.3) of ``length`` bytes,
    -1 while that is unknown.

    A strong entity tag names these very bytes no longer, so it becomes weak; conditions of GET still match it. Ranges
    of a coded body are ranges of other bytes: Accept-Ranges goes.
    """
    kept = [
        (name, b"W/" + value if name == b"etag" and value.startswith(b'"') else value)
        for name, value in fields
        if name not in (b"content-length", b"accept-ranges")
    ]
    kept.append((b"content-encoding", coding))
    if length >= 0:
        kept.append((b"content-length", b"%d" % length))
    return varied_fields(kept)


def varied_fields(fields: Fields) -> Fields:
    """``fields`` with Accept-Encoding in Vary: also the uncoded response of a route that codes is chosen by it."""
    vary = combined(fields, b"vary")
    if vary is not None and {m.lower() for m in list_members(vary)} & {b"*", b"accept-encoding"}:
        return fields
    return [*fields, (b"vary", b"Accept-Encoding")]
