"""Files of a folder: which file a request gets, conditions and ranges (RFC 9110 §13, §14), and precompressed siblings.

Small files are kept in memory and sent from there, as long as the file on disk is the same: one ``stat`` for each
request. Longer ones are sent from the disk (:mod:`.file_body`).

A strong entity tag is needed for ranges. That of a small file is a digest of its content, that of a longer one consists
of its length and the time of its modification.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from time import time
from typing import Final

from passerelle.actions.file_body import FileBody
from passerelle.actions.folder import FileState, Folder, OpenFile, Segments, segments_of
from passerelle.actions.interfaces import ActionExchange, Encoder
from passerelle.actions.media_types import media_type
from passerelle.caching.dates import format_date, parse_date
from passerelle.caching.ranges import UNSATISFIABLE, resolve_range
from passerelle.caching.validators import entity_tag, not_modified, range_applies, strongly_equal
from passerelle.errors import Failure, Kind
from passerelle.http.content_coding import choose
from passerelle.http.messages import Response, list_members
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.routing.paths import Template

SMALL: Final = 64 * 1024
"""The longest file that is kept in memory, in bytes."""
MOST_KEPT: Final = 16 * 1024 * 1024
"""How much a worker keeps of the files of one route, in bytes."""
# What a kept file takes besides its content, in bytes.
_OVERHEAD: Final = 1024
# Archives and images of containers set such times for all files, so they are not those of a modification.
_NO_TIME: Final = 315_619_200  # 1980-01-02
# Most paths of requests whose files are found at once. One that no request has is not remembered.
_MOST_PATHS: Final = 4096
_CONDITIONS: Final = frozenset(
    {b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range"}
)
_ENDINGS: Final = {b"br": b".br", b"gzip": b".gz", b"zstd": b".zst"}


@dataclass(frozen=True, slots=True)
class StaticSettings:
    """What a static route serves.

    ``path`` makes the path in the folder from the parameters, None for the whole path of the request. ``index`` are the
    files that stand for a folder. ``endings`` are tried in turn after the path (an empty one is the path itself).
    ``fallback`` is the file for all other paths that do not name an asset. ``codings`` are those of the siblings that
    are looked for, in order of preference.
    """

    folder: bytes
    path: Template | None = None
    rest: str | None = None
    index: tuple[bytes, ...] = (b"index.html",)
    endings: tuple[bytes, ...] = (b"",)
    fallback: Segments | None = None
    codings: tuple[bytes, ...] = ()


class FileFields:
    """The fields of the response with a file, and its validators; ``whole`` is the head of one with all of the file."""

    __slots__ = ("etag", "head", "modified", "modified_line", "size", "whole")

    def __init__(self, state: FileState, kind: bytes | None, coding: bytes, varies: bool, digest: bytes) -> None:
        self.size = state.size
        self.modified = state.modified // 1_000_000_000
        tag = digest or b"%x-%x" % (state.modified, state.size)
        self.etag = b'"%b%b"' % (tag, b"-" + coding if coding else b"")
        self.modified_line = format_date(self.modified) if self.modified >= _NO_TIME else b""
        lines = [b"Content-Type: %b\r\n" % (kind or b"application/octet-stream")]
        if coding:
            lines.append(b"Content-Encoding: %b\r\n" % coding)
        lines.append(b"ETag: %b\r\n" % self.etag)
        if self.modified_line:
            lines.append(b"Last-Modified: %b\r\n" % self.modified_line)
        if varies:
            lines.append(b"Vary: Accept-Encoding\r\n")
        self.head = b"".join([*lines, b"Accept-Ranges: bytes\r\n"])
        self.whole = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n" % (self.head, self.size)

    @property
    def without_content(self) -> bytes:
        """The lines of a 304 (RFC 9110 §15.4.5)."""
        return self.head[self.head.index(b"ETag: ") : self.head.index(b"Accept-Ranges")]


class _KeptFile:
    """A small file in memory."""

    __slots__ = ("body", "fields", "location", "state")

    def __init__(self, location: bytes, state: FileState, fields: FileFields, body: bytes) -> None:
        self.location = location
        self.state = state
        self.fields = fields
        self.body = body

    def is_current(self) -> bool:
        """Whether the file on disk is still the one that was read."""
        try:
            found = os.stat(self.location)
        except OSError:
            return False
        state = self.state
        return (
            found.st_mtime_ns == state.modified
            and found.st_size == state.size
            and found.st_ino == state.inode
            and found.st_ctime_ns == state.changed
            and found.st_dev == state.device
        )


class Static:
    """Serves the files of one route."""

    __slots__ = ("_encoder", "_folder", "_is_simple", "_kept", "_settings", "_usual", "kept_bytes")

    def __init__(self, settings: StaticSettings, encoder: Encoder | None) -> None:
        self._settings = settings
        self._folder = Folder(settings.folder)
        self._encoder = encoder
        self._kept: dict[tuple[Segments, bytes], _KeptFile] = {}
        # The kept files by the paths of requests, where the first name that is tried for a path was found.
        self._usual: dict[bytes, _KeptFile] = {}
        self._is_simple = not settings.codings and encoder is None and settings.endings[0] == b""
        self.kept_bytes = 0

    def __call__(self, exchange: ActionExchange, head: RequestHead, path: bytes, params: Mapping[str, bytes]) -> None:
        """Send the file of the request.

        :raises Failure: if there is none, or it cannot be read.
        """
        kept = self._usual.get(path)
        if kept is not None:
            if kept.is_current():
                self._respond(exchange, head, kept)
                return
            del self._usual[path]
        settings = self._settings
        if settings.path is not None:
            place = settings.path.fill(params)[1:]
        else:
            place = path[1:] if settings.rest is None else params[settings.rest]
        names = segments_of(place)
        if names is None or not self._serve(exchange, head, path, names):
            raise Failure(Kind.NO_FILE)

    def _serve(self, exchange: ActionExchange, head: RequestHead, path: bytes, names: Segments) -> bool:
        """Send the file that ``names`` stands for, or lead to the index of a folder; return False without one."""
        settings = self._settings
        # Links in an index are relative to the folder, whose path ends with a slash.
        lacks_slash = settings.path is None and not path.endswith(b"/")
        if names[-1] or not lacks_slash:
            for ending in settings.endings:
                if self._try(exchange, head, path, names, ending):
                    return True
        if lacks_slash and self._is_folder(names):
            location = path + b"/" + exchange.guarded_call().query
            exchange.respond(Response(301, [(b"Location", location), (b"Cache-Control", b"no-cache")]))
            return True
        fallback = settings.fallback
        return fallback is not None and not _is_asset(names[-1]) and self._send(exchange, head, fallback)

    def _try(self, exchange: ActionExchange, head: RequestHead, path: bytes, names: Segments, ending: bytes) -> bool:
        """Send the file that ``names`` with ``ending`` denotes; return False if there is none."""
        if names[-1]:
            return self._send(exchange, head, _with_ending(names, ending), path if not ending else b"")
        if ending:
            return False
        first, *others = self._settings.index
        if self._send(exchange, head, (*names[:-1], first), path):
            return True
        return any(self._send(exchange, head, (*names[:-1], index)) for index in others)

    def _is_folder(self, names: Segments) -> bool:
        """Whether ``names`` is a folder with an index."""
        folder = names if names[-1] else names[:-1]
        for index in self._settings.index:
            file = self._folder.open((*folder, index))
            if file is not None:
                os.close(file.descriptor)
                return True
        return False

    # ---- one file

    def _send(self, exchange: ActionExchange, head: RequestHead, names: Segments, path: bytes = b"") -> bool:
        """Send the file ``names``, or its sibling in a coding that the client accepts; return False without a file.

        ``path`` is that of the request if no other file could be sent in its place, else empty.
        """
        if self._settings.codings:
            accepted = [line.value for line in head.named(b"accept-encoding")]
            coding = choose(b", ".join(accepted), self._settings.codings) if accepted else None
            if coding is not None and self._send_coded(exchange, head, names, coding):
                return True
        return self._send_as(exchange, head, names, path if self._is_simple else b"")

    def _send_coded(self, exchange: ActionExchange, head: RequestHead, names: Segments, coding: bytes) -> bool:
        """Send the sibling of a file in ``coding``, if it is not older than the file."""
        try:
            plain = os.stat(self._folder.location(names), follow_symlinks=False).st_mtime_ns
        except OSError:
            return False
        return self._send_as(exchange, head, (*names[:-1], names[-1] + _ENDINGS[coding]), b"", coding, plain)

    def _send_as(
        self,
        exchange: ActionExchange,
        head: RequestHead,
        names: Segments,
        path: bytes,
        coding: bytes = b"",
        since: int | None = None,
    ) -> bool:
        """Send the file ``names`` as content in ``coding`` if it was modified at or after ``since``.

        The next request for ``path``, if not empty, gets the same file.
        """
        key = names, coding
        kept = self._kept.get(key)
        if kept is not None and not kept.is_current():
            self._drop(key)
            kept = None
        if kept is None:
            file = self._folder.open(names)
            if file is None:
                return False
            if since is not None and file.state.modified < since:
                os.close(file.descriptor)
                return False
            found = self._read(file, names, coding)
            if isinstance(found, FileFields):
                self._stream(exchange, head, found, file)
                return True
            kept = found
            self._keep(key, kept)
        if since is not None and kept.state.modified < since:
            return False
        if path:
            if len(self._usual) >= _MOST_PATHS:
                self._usual.clear()
            self._usual[path] = kept
        self._respond(exchange, head, kept)
        return True

    def _read(self, file: OpenFile, names: Segments, coding: bytes) -> _KeptFile | FileFields:
        """Read and close a small file; of any other, which stays open, return the fields of the response.

        :raises Failure: if it cannot be read.
        """
        keeps_open = False
        try:
            body = _read_small(file)
            digest = blake2b(body, digest_size=16).hexdigest().encode() if body is not None else b""
            plain = names[-1].removesuffix(_ENDINGS[coding]) if coding else names[-1]
            fields = FileFields(file.state, media_type(plain), coding, bool(self._settings.codings), digest)
            keeps_open = body is None
            return fields if body is None else _KeptFile(self._folder.location(names), file.state, fields, body)
        finally:
            if not keeps_open:
                os.close(file.descriptor)

    def _keep(self, key: tuple[Segments, bytes], kept: _KeptFile) -> None:
        self.kept_bytes += len(kept.body) + _OVERHEAD
        self._kept[key] = kept
        while self.kept_bytes > MOST_KEPT:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[Segments, bytes]) -> None:
        self.kept_bytes -= len(self._kept.pop(key).body) + _OVERHEAD
        self._usual.clear()

    # ---- responses

    def _respond(self, exchange: ActionExchange, head: RequestHead, kept: _KeptFile) -> None:
        """Send a small file: whole, a range of it, or what the conditions require."""
        fields, body = kept.fields, kept.body
        if self._encoder is None and _CONDITIONS.isdisjoint(head.layout.names):
            exchange.send_whole(200, fields.whole, body)
            return
        status, lines, first, end = answer(exchange.method, head, fields)
        part = body if end - first == len(body) else body[first:end]
        if self._encoder is not None and status in (200, 206, 304):
            receiver = self._encoder(exchange)
            receiver.on_response(ResponseHead(lines + b"\r\n"), part if exchange.method != b"HEAD" else b"", True)
        else:
            exchange.send_whole(status, lines, part)

    def _stream(self, exchange: ActionExchange, head: RequestHead, fields: FileFields, file: OpenFile) -> None:
        """Send a file that is not kept in memory."""
        status, lines, first, end = answer(exchange.method, head, fields)
        if end == first or exchange.method == b"HEAD":
            os.close(file.descriptor)
            if self._encoder is not None and status in (200, 304):
                self._encoder(exchange).on_response(ResponseHead(lines + b"\r\n"), b"", True)
            else:
                exchange.send_whole(status, lines, b"")
            return
        receiver = exchange if self._encoder is None else self._encoder(exchange)
        FileBody(exchange, receiver, file, first, end).start(ResponseHead(lines + b"\r\n"))


def answer(method: bytes, head: RequestHead, fields: FileFields) -> tuple[int, bytes, int, int]:
    """Return the response to a GET or HEAD: status, head without Date and empty line, and the range of its body."""
    status = _condition(head, fields)
    if status == 304:
        return 304, b"HTTP/1.1 304 Not Modified\r\n" + fields.without_content, 0, 0
    if status == 412:
        return 412, b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n", 0, 0
    size = fields.size
    wanted = head.get(b"range") if method == b"GET" else None
    if wanted is not None and _range_applies(head, fields):
        found = resolve_range(wanted, size)
        if found is UNSATISFIABLE:
            line = b"Content-Range: bytes */%d\r\nContent-Length: 0\r\n" % size
            return 416, b"HTTP/1.1 416 Range Not Satisfiable\r\n" + line, 0, 0
        if found is not None:
            first, end = found
            lines = b"Content-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n" % (first, end - 1, size, end - first)
            return 206, b"HTTP/1.1 206 Partial Content\r\n" + fields.head + lines, first, end
    return 200, fields.whole, 0, size


def _condition(head: RequestHead, fields: FileFields) -> int:
    """Return 304 or 412 if the conditions of the request require it, else 200 (RFC 9110 §13.2.2)."""
    match = [line.value for line in head.named(b"if-match")]
    unmodified = head.get(b"if-unmodified-since")
    if match:
        tags = [entity_tag(tag) for value in match for tag in list_members(value)]
        if match != [b"*"] and not any(tag and strongly_equal(tag, fields.etag) for tag in tags):
            return 412
    elif unmodified is not None and fields.modified_line:
        since = parse_date(unmodified, time())
        if since is not None and fields.modified > since:
            return 412
    none_match = [line.value for line in head.named(b"if-none-match")]
    modified_since = head.get(b"if-modified-since") if fields.modified_line else None
    if not none_match and modified_since is None:
        return 200
    joined = b", ".join(none_match) if none_match else None
    return 304 if not_modified(joined, modified_since, fields.etag, fields.modified, time()) else 200


def _range_applies(head: RequestHead, fields: FileFields) -> bool:
    if_range = head.get(b"if-range")
    now = time()
    return if_range is None or range_applies(if_range, fields.etag, fields.modified_line or None, now, now)


def _with_ending(names: Segments, ending: bytes) -> Segments:
    if not ending:
        return names
    first, *more = (names[-1] + ending).split(b"/")
    return (*names[:-1], first, *more)


def _is_asset(name: bytes) -> bool:
    """Whether a file of this name is no page: a missing one must not be answered with a page."""
    kind = media_type(name)
    return kind is not None and not kind.startswith(b"text/html")


def _read_small(file: OpenFile) -> bytes | None:
    """Return the content of a small file that is in memory; None for any other, which is streamed.

    :raises Failure: if the file changes meanwhile.
    """
    size = file.state.size
    if size > SMALL:
        return None
    data = bytearray(size + 1)
    try:
        count = os.preadv(file.descriptor, [data], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError:
        count = os.preadv(file.descriptor, [data], 0)
    if count != size or not FileState.of(os.fstat(file.descriptor)).has_content_of(file.state):
        raise Failure(Kind.INTERNAL, "the file changed while it was read")
    return bytes(data[:count])
