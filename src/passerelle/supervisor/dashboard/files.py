"""The files of the dashboard, as responses.

They contain no data, and so are open to clients without a token: the page shows the login. All data comes from the
other pages of the admin port.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from passerelle.http.messages import Fields, Response

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Only files of the page's own origin run or load, and nothing in the page itself: a name with markup in it stays text.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@cache
def _files() -> dict[bytes, tuple[bytes, bytes]]:
    """Return the type and content of each file by its path."""
    found = {}
    for folder, prefix in ((_FOLDER / "static", b"/dashboard/"), (_FOLDER / "vendor", b"/dashboard/vendor/")):
        for file in folder.iterdir():
            if file.suffix in _TYPES:
                found[prefix + file.name.encode()] = _TYPES[file.suffix], file.read_bytes()
    found[b"/"] = found.pop(b"/dashboard/index.html")
    return found


def is_file(path: bytes) -> bool:
    """Whether ``path`` is a file of the dashboard; the files are read when the first of them is requested."""
    return (path == b"/" or path.startswith(b"/dashboard/")) and path in _files()


def response(path: bytes) -> Response:
    """Return the file at ``path``."""
    media_type, content = _files()[path]
    fields: Fields = [
        (b"Content-Type", media_type),
        (b"Cache-Control", b"no-store"),
        (b"Content-Security-Policy", _POLICY),
        (b"Cross-Origin-Opener-Policy", b"same-origin"),
        (b"Cross-Origin-Resource-Policy", b"same-origin"),
        (b"Referrer-Policy", b"no-referrer"),
        (b"X-Content-Type-Options", b"nosniff"),
    ]
    return Response(200, fields, content)
