"""One call of a WSGI application (PEP 3333): from a request to its environ, and from its response to bytes.

It runs in a worker thread. The connection is a :class:`ResponseSink`; sockets and event loops are not used here.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import IO, Any, Protocol

from passerelle.appserver import refusal
from passerelle.appserver.client_fields import apply_to_environ
from passerelle.appserver.paths import decode_path

log = logging.getLogger("passerelle.appserver")

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

# Header fields of the connection, which PEP 3333 forbids to applications (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(r"[2-5][0-9][0-9](?: .*)?")
_ERROR = b'{"type":"about:blank","title":"Internal Server Error","status":500}'
_TOO_MANY_STREAMS = b'{"type":"about:blank","title":"Service Unavailable","status":503}'
_EVENT_STREAM = "text/event-stream"
_NAMES_KEPT = 1000  # bounds the memos of names, because clients may send any names

_keys: dict[bytes, str] = {}
_date = (0, "")


class ResponseSink(Protocol):
    """The destination of a response. All methods are called from the worker thread."""

    def send(self, data: bytes) -> bool:
        """Send the next bytes of a response; may block for a slow client. Returns False if the client is gone."""
        ...

    def is_open(self) -> bool:
        """Whether the client is still there."""
        ...

    def begin_stream(self) -> bool:
        """Record that the response is a stream that may last. Returns False if there are too many already."""
        ...

    def finish(self, data: bytes, keep: bool) -> None:
        """Send the last bytes of a response. ``keep``: the connection may carry another request."""
        ...


def base_environ(host: str, port: int) -> Environ:
    """Return the part of the environ that is the same for all requests at ``host:port``."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_SOFTWARE": "passerelle",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # The body is complete before the application is called, so the application can read it to the end.
        "wsgi.input_terminated": True,
    }


def environ_of(
    base: Environ,
    method: bytes,
    target: bytes,
    version: str,
    fields: Iterable[tuple[bytes, bytes]],
    peer: str,
    port: int,
    *,
    from_gateway: bool,
    keep_host: bool = False,
) -> Environ:
    """Return the environ of a request without a body; ``version`` is ``1.0`` or ``1.1``.

    ``from_gateway``: the header fields about the client are believed (see :mod:`.gateway_peer`).

    Header fields with an underscore in their name are dropped, because ``X_User`` would have the same environ key as
    the ``X-User`` that the gateway sets.
    """
    environ = dict(base)
    uri = target.decode("latin-1")
    environ["REQUEST_METHOD"] = method.decode("ascii")
    environ["REQUEST_URI"] = uri
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if version == "1.1" else "HTTP/1.0"
    environ["REMOTE_ADDR"] = peer
    environ["REMOTE_PORT"] = str(port)
    if not uri.startswith("/"):
        # absolute-form (RFC 9112, section 3.2.2); the asterisk-form of OPTIONS has an empty path.
        _, _, rest = uri.partition("://")
        uri = rest[rest.find("/") :] if "/" in rest else ""
    path, _, query = uri.partition("?")
    environ["PATH_INFO"] = decode_path(path, "latin-1") if "%" in path else path
    environ["QUERY_STRING"] = query
    environ["wsgi.input"] = io.BytesIO()
    for name, value in fields:
        key = _keys.get(name) or _key(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    if from_gateway:
        apply_to_environ(environ, keep_host=keep_host)
    return environ


def add_body(environ: Environ, body: IO[bytes], length: int) -> None:
    """Add the complete ``body`` of ``length`` bytes to ``environ``, without regard to its framing in the request."""
    environ["wsgi.input"] = body
    environ["CONTENT_LENGTH"] = str(length)


def _key(name: bytes) -> str:
    text = name.decode("latin-1").upper()
    if "_" in text or text == "TRANSFER-ENCODING":
        key = ""
    elif text in ("CONTENT-TYPE", "CONTENT-LENGTH"):
        key = text.replace("-", "_")
    else:
        key = "HTTP_" + text.replace("-", "_")
    if len(_keys) < _NAMES_KEPT:
        _keys[name] = key
    return key


class _TooManyStreams(Exception):
    """The response is an event stream, and there are as many as there may be."""


def run(application: Application, environ: Environ, sink: ResponseSink, keep: bool) -> None:
    """Call ``application`` and send its response to ``sink``. An exception is logged, and the response is 500."""
    response = WsgiResponse(environ, sink, keep)
    body = environ["wsgi.input"]  # middleware may replace it in the environ
    try:
        result = application(environ, response.start)
        try:
            response.write_all(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
    except _TooManyStreams:
        response.refuse_stream()
    # Includes SystemExit: a request must not end the instance.
    except BaseException:
        log.exception("%s %s failed", environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"))
        response.fail()
    finally:
        body.close()


class WsgiResponse:
    """The server side of one WSGI call. ``keep``: the request allows another one on its connection."""

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_done",
        "_fields",
        "_head",
        "_keep",
        "_left",
        "_method",
        "_old",
        "_sink",
        "_status",
    )

    def __init__(self, environ: Environ, sink: ResponseSink, keep: bool) -> None:
        self._method: str = environ["REQUEST_METHOD"]
        self._old = environ["SERVER_PROTOCOL"] == "HTTP/1.0"
        self._sink = sink
        self._keep = keep
        self._status = ""  # set by start
        self._fields: list[tuple[str, str]] = []
        self._head: bytes | None = None  # created with the first bytes of the body, empty once it is sent
        self._left: int | None = None  # remaining bytes of the body, if its length is known
        self._bodiless = False
        self._chunked = False
        self._done = False

    def start(self, status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Implement ``start_response`` of PEP 3333."""
        if exc_info is not None:
            try:
                if self._head is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise RuntimeError("start_response was called twice")
        self._status = status
        self._fields = fields
        return self.write

    def write_all(self, result: Iterable[bytes]) -> None:
        """Send the whole body of the application."""
        if isinstance(result, list | tuple):
            # The length of the body is known, because all of it is.
            body = b"".join(result)
            if self._head is None and self._status:
                self._begin(len(body))
            self.write(body)
        else:
            for chunk in result:
                if not self.write(chunk):
                    return
        self._end()

    def write(self, chunk: bytes) -> bool:
        """Send ``chunk``. Returns False if no more of the body is needed."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"a body consists of bytes, not {type(chunk).__name__}")
        if not chunk:
            return self._sink.is_open()
        if self._done:
            # The response is complete, but the application may still have work to do in its iterator.
            return not self._bodiless
        if self._head is None:
            self._begin(None)
        if self._bodiless:
            self._finish(b"", keep=True)
            return False
        if self._left is not None:
            if len(chunk) > self._left:
                log.error("the body is longer than its Content-Length; truncated")
                chunk = chunk[: self._left]
            self._left -= len(chunk)
            if not self._left:
                self._finish(chunk, keep=True)
                return True
        elif self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        head, self._head = self._head, b""
        return self._sink.send(head + chunk if head else chunk)

    def fail(self) -> None:
        """Send 500, or abort a response that has begun, so that the client does not take it for a complete one."""
        if self._done:
            return
        if self._head:
            self._head = None
        if self._head is None:
            self._status, self._fields = "500 Internal Server Error", [("Content-Type", "application/problem+json")]
            self._begin(len(_ERROR))
            self._finish(b"" if self._bodiless else _ERROR, keep=True)
        else:
            self._finish(b"", keep=False)

    def refuse_stream(self) -> None:
        """Send 503 in place of an event stream."""
        self._status = "503 Service Unavailable"
        self._fields = [
            ("Content-Type", "application/problem+json"),
            ("Cache-Control", "no-store"),
            ("Retry-After", str(refusal.RETRY_AFTER)),
        ]
        self._begin(len(_TOO_MANY_STREAMS))
        self._finish(_TOO_MANY_STREAMS, keep=True)

    def _end(self) -> None:
        if self._done:
            return
        if self._head is None:
            self._begin(0)
        if self._bodiless or self._left == 0:
            self._finish(b"", keep=True)
        elif self._chunked:
            self._finish(b"0\r\n\r\n", keep=True)
        else:
            if self._left:
                log.error("the body is %d bytes shorter than its Content-Length", self._left)
            self._finish(b"", keep=False)

    def _finish(self, data: bytes, *, keep: bool) -> None:
        self._done = True
        head, self._head = self._head, b""
        self._sink.finish(head + data if head else data, keep and self._keep)

    def _begin(self, length: int | None) -> None:
        """Create the head. ``length`` is that of the body, if it is known without a Content-Length."""
        status = self._status
        if not status:
            raise RuntimeError("the application did not call start_response")
        if status not in _statuses:
            _learn_status(status)
        code = status[:3]
        self._bodiless = self._method == "HEAD" or code in ("204", "304")
        lines = [f"HTTP/1.1 {status}"]
        dated = streamed = False
        self._left = None
        self._chunked = False
        roles = _roles
        for name, value in self._fields:
            role = roles.get(name) or _role(name)
            if role == _PLAIN:
                pass
            elif role == _LENGTH:
                if not value.isascii() or not value.isdigit():
                    raise ValueError(f"not a Content-Length: {value!r}")
                if self._left not in (None, int(value)):
                    raise ValueError("two Content-Lengths")
                if self._left is not None or code == "204":
                    continue
                self._left = int(value)
            elif role == _HOP:
                continue
            elif role == _TYPE:
                streamed = value.startswith(_EVENT_STREAM)
            else:
                dated = True
            lines.append(f"{name}: {value}")
        if not dated:
            lines.append(_date_field())
        if self._left is None and not self._bodiless:
            if length is not None:
                self._left = length
                lines.append(f"Content-Length: {length}")
            elif not self._old:
                self._chunked = True
                lines.append("Transfer-Encoding: chunked")
            else:
                self._keep = False  # the body ends with the connection
        if not self._keep:
            lines.append("Connection: close")
        elif self._old:
            lines.append("Connection: keep-alive")
        lines.append("\r\n")
        text = "\r\n".join(lines)
        if streamed and self._left is None and not self._bodiless and not self._sink.begin_stream():
            raise _TooManyStreams
        # One check for values of the application that would end a header field and begin another.
        if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
            raise ValueError("a line break or NUL in the status or a header field")
        self._head = text.encode("latin-1")


# Field names and status lines that applications use: few, and checked once. The roles are plain integers, because
# comparing members of an enumeration for each field would take longer than everything else here.
_PLAIN, _LENGTH, _DATE, _HOP, _TYPE = 1, 2, 3, 4, 5
_ROLES = {"content-length": _LENGTH, "date": _DATE, "content-type": _TYPE}
_roles: dict[str, int] = {}
_statuses: set[str] = set()


def _role(name: str) -> int:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a field name: {name!r}")
    lowered = name.lower()
    role = _HOP if lowered in _HOP_BY_HOP else _ROLES.get(lowered, _PLAIN)
    if len(_roles) < _NAMES_KEPT:
        _roles[name] = role
    return role


def _learn_status(status: str) -> None:
    if not _STATUS.fullmatch(status):
        raise ValueError(f"not a final status: {status!r}")
    if len(_statuses) < _NAMES_KEPT:
        _statuses.add(status)


def _date_field() -> str:
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, f"Date: {formatdate(now, usegmt=True)}")
    return _date[1]
