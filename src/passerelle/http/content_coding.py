"""Content codings (RFC 9110 §8.4): selecting a coding, applying it, and adjusting the header fields.

gzip comes from the standard library; br and zstd are available if their packages are installed. All functions are pure.
A body can be encoded as a whole or piece by piece.
"""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from passerelle.http.messages import Fields, combined, get, list_members

# Order of preference among codings of equal weight: zstd and br produce about the same size, zstd in a fraction of the
# time.
PREFERRED: Final = (b"zstd", b"br", b"gzip")

# Minimum body size in bytes: below it, encoding saves no packet and costs both sides CPU time.
SMALLEST: Final = 256

_WEIGHT = re.compile(rb"[ \t]*;[ \t]*q=([01](?:\.[0-9]{0,3})?)[ \t]*", re.IGNORECASE)

# Compressible media types besides text/* and those with the suffix +json or +xml (RFC 6839).
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

# Levels measured on JSON of 2, 20 and 200 kB: the next level takes at least half as long again for less than 3 % of
# size. On 20 kB they yield 21, 20 and 19 % of the size in 130, 97 and 45 us.
_GZIP_LEVEL: Final = 5
_BROTLI_QUALITY: Final = 3
_ZSTD_LEVEL: Final = 1


def _gzip(body: bytes) -> bytes:
    # A gzip container without name and time, so that equal bodies produce equal bytes.
    coder = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return coder.compress(body) + coder.flush()


# An encoder for a body in pieces: (encode a piece, finish). Each piece is flushed, so that none waits for the next.
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

# The codings available in this installation, in order of preference.
AVAILABLE: Final = tuple(name for name in PREFERRED if name in _CODERS)


class CodingRule(NamedTuple):
    """Rule for encoding responses.

    ``codings`` are the codings offered, in order of preference; ``smallest`` is the minimum body size in bytes;
    ``types`` are the media types (``type/*`` for a whole type), None for those of :func:`is_compressible`.
    """

    codings: tuple[bytes, ...] = AVAILABLE
    smallest: int = SMALLEST
    types: frozenset[bytes] | None = None


DEFAULT_RULE: Final = CodingRule()


@lru_cache(maxsize=256)
def _cached_choice(accept_encoding: bytes, offered: tuple[bytes, ...]) -> bytes | None:
    return choose(accept_encoding, offered)


# Maximum length of an Accept-Encoding value that is cached; longer ones are parsed each time, so memory is bounded.
_MAX_CACHED_LENGTH: Final = 128


def select_coding(request: Iterable[tuple[bytes, bytes]], rule: CodingRule) -> bytes | None:
    """Return the coding for the response to a request with these fields, or None.

    The result is also None if the client forbids transformations (RFC 9111 §5.2.1.6).
    """
    accepted: bytes | None = None
    for name, value in request:
        if name == b"accept-encoding":
            accepted = value if accepted is None else accepted + b"," + value
        elif name == b"cache-control" and _NO_TRANSFORM.search(value):
            return None
    if accepted is None:
        return None
    if len(accepted) > _MAX_CACHED_LENGTH:
        return choose(accepted, rule.codings)
    return _cached_choice(accepted, rule.codings)


def choose(accept_encoding: bytes | None, offered: Iterable[bytes] = AVAILABLE) -> bytes | None:
    """Return the coding to respond with, or None for no coding (RFC 9110 §12.5.3).

    The highest weight wins; among equal weights, the first of ``offered``. Nothing is encoded without the field,
    because such a client may be unable to decode, or if the field prefers ``identity``.
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
        # At equal weight, a coding that the client names is preferred to identity.
        if weight > 0 and (weight > highest or (best is None and weight == highest)):
            best, highest = name, weight
    return best


def is_compressible(media_type: bytes | None, types: frozenset[bytes] | None = None) -> bool:
    """Whether bodies of this media type shrink; images, video and archives are compressed already.

    ``types``, in lower case, replaces the default types (``type/*`` for a whole type). Event streams are never
    compressed, because events must not be delayed.
    """
    if media_type is None:
        return False
    kind = media_type.partition(b";")[0].strip(b" \t").lower()
    if kind == b"text/event-stream":
        return False
    if types is not None:
        return kind in types or kind.partition(b"/")[0] + b"/*" in types
    return kind.startswith(b"text/") or kind in _TYPES or kind.endswith((b"+json", b"+xml"))


# Fields that forbid encoding: a digest of the content, or of the representation with its coding (RFC 9530 §2, §3),
# would become wrong.
_FORBIDDING: Final = (
    b"content-encoding",
    b"content-range",
    b"content-md5",
    b"content-digest",
    b"digest",
    b"repr-digest",
)
# Those of them that the complete response would have, too.
_FORBIDDING_WHOLE: Final = (b"content-encoding", b"repr-digest")


def is_codable(status: int, fields: Fields, length: int, rule: CodingRule = DEFAULT_RULE) -> bool:
    """Whether a response with a body of ``length`` bytes (-1: unknown) may and should be encoded.

    The result is False if ``no-transform`` forbids it (RFC 9110 §7.7), if the response is encoded already, is partial
    (206) or has no body, or if a digest of the content would become wrong.
    """
    if status < 200 or status in (204, 206, 304) or 0 <= length < rule.smallest:
        return False
    return not _is_forbidden(fields, _FORBIDDING) and is_compressible(get(fields, b"content-type"), rule.types)


def stands_for_codable(fields: Fields, length: int, rule: CodingRule = DEFAULT_RULE) -> bool:
    """Whether the complete response to a GET, in whose place this one is sent, may be encoded.

    For a 304, a 206 and a response to HEAD, which have the Vary of that response (RFC 9110 §15.4.5, §15.3.7, §9.3.2).
    What it does not state is taken for what is encoded: its media type, and a ``length`` that is not positive.
    """
    if 0 < length < rule.smallest or _is_forbidden(fields, _FORBIDDING_WHOLE):
        return False
    media_type = get(fields, b"content-type")
    if media_type is None or media_type.lower().startswith(b"multipart/byteranges"):
        return True
    return is_compressible(media_type, rule.types)


def _is_forbidden(fields: Fields, names: tuple[bytes, ...]) -> bool:
    """Whether the response forbids encoding: by one of the fields ``names``, or by ``no-transform``."""
    if any(get(fields, name) is not None for name in names):
        return True
    control = combined(fields, b"cache-control")
    return control is not None and _NO_TRANSFORM.search(control) is not None


# A match inside a quoted string is harmless: the response is then not encoded.
_NO_TRANSFORM = re.compile(rb"no-transform", re.IGNORECASE)


def encode(coding: bytes, body: bytes) -> bytes:
    """Encode ``body`` in ``coding``, one of AVAILABLE. The result is deterministic."""
    return _CODERS[coding](body)


def stream(coding: bytes) -> Stream:
    """Return an encoder of one body in pieces, in ``coding``, one of AVAILABLE."""
    return _STREAMS[coding]()


def coded_fields(fields: Fields, coding: bytes, length: int) -> Fields:
    """Return ``fields`` adjusted to a body in ``coding`` of ``length`` bytes (-1: unknown).

    See RFC 9110 §8.4, §8.6, §8.8.3, §12.5.3. A strong entity tag identifies the exact bytes, so it becomes weak; the
    conditions of GET still match it. Accept-Ranges is removed, because ranges of the encoded body are different bytes.
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


def weak_fields(fields: Fields) -> Fields:
    """Return ``fields`` of a response without a body, as :func:`coded_fields` has them: the tag and Vary."""
    return varied_fields(
        [(name, b"W/" + value if name == b"etag" and value[:1] == b'"' else value) for name, value in fields]
    )


def varied_fields(fields: Fields) -> Fields:
    """Return ``fields`` with Accept-Encoding in Vary.

    This applies to the unencoded response, too, if its route encodes: it was selected by Accept-Encoding.
    """
    vary = combined(fields, b"vary")
    if vary is not None and {m.lower() for m in list_members(vary)} & {b"*", b"accept-encoding"}:
        return fields
    return [*fields, (b"vary", b"Accept-Encoding")]
