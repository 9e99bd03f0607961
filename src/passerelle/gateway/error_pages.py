"""Pages for the errors that the gateway makes itself, for clients that prefer HTML to problem details."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Final

from passerelle.http.messages import Fields, Response, list_members

_QUALITY: Final = re.compile(rb"q=([01](?:\.[0-9]{0,3})?)")
_PAGES: Final = (b"text/html", b"application/xhtml+xml")
_DOCUMENTS: Final = (b"application/problem+json", b"application/json")
_PLACEHOLDER: Final = re.compile(rb"\{(status|title|request_id)\}")


class ErrorPages:
    """Pages by status: ``404``, or ``5`` for every 5xx without a page of its own."""

    __slots__ = ("_pages",)

    def __init__(self, pages: Mapping[int, bytes]) -> None:
        self._pages = dict(pages)

    def choose(self, problem: Response, accept: bytes | None, title: str, request_id: bytes) -> Response:
        """Return the page in place of ``problem`` for a client that sends ``accept``, or ``problem`` itself.

        The other fields stay. ``{status}``, ``{title}`` and ``{request_id}`` in the page are replaced.
        """
        page = self._pages.get(problem.status) or self._pages.get(problem.status // 100)
        if page is None or not prefers_html(accept):
            return problem
        values = {
            b"status": b"%d" % problem.status,
            b"title": escape(title).encode(),
            b"request_id": escape(request_id.decode("latin-1")).encode(),
        }
        fields: Fields = [field for field in problem.fields if field[0] != b"Content-Type"]
        body = _PLACEHOLDER.sub(lambda found: values[found[1]], page)
        return Response(problem.status, [(b"Content-Type", b"text/html; charset=utf-8"), *fields], body)


def prefers_html(accept: bytes | None) -> bool:
    """Whether a client names HTML in ``Accept``, with at least the weight of JSON (RFC 9110 §12.5.1).

    Browsers name it for pages. Programs, and scripts in pages, send ``*/*`` or no such field.
    """
    if accept is None or len(accept) > 1024:
        return False
    pages, documents = 0.0, 0.0
    for member in list_members(accept.lower()):
        name, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        found = _QUALITY.fullmatch(parameters[-1]) if parameters else None
        weight = float(found[1]) if found is not None else 1.0
        if name in _PAGES:
            pages = max(pages, weight)
        elif name in _DOCUMENTS:
            documents = max(documents, weight)
    return pages > 0 and pages >= documents
