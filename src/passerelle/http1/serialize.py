"""Serialization of responses that the gateway makes itself."""

from __future__ import annotations

from email.utils import formatdate

import orjson

from passerelle.errors import Failure, reason_phrase
from passerelle.http.messages import Fields, Response


def date_line(now: float) -> bytes:
    """Return the Date field line for ``now`` (seconds since 1970), with its CRLF (RFC 9110 §6.6.1)."""
    return b"Date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")


def serialize(response: Response) -> bytes:
    """Return the status line and field lines of ``response``, without Date, Content-Length and the empty line."""
    status = response.status
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status))]
    lines += [b"%b: %b\r\n" % field for field in response.fields]
    return b"".join(lines)


def problem(failure: Failure, request_id: bytes, fields: Fields | None = None, trace_id: bytes = b"") -> Response:
    """Return ``failure`` as problem details (RFC 9457), with ``trace_id`` if the request has one.

    The response states what happened and which side caused it, but nothing about instances or internals. No cache may
    store it: it depends on the state of the gateway and its services. Without a directive, a 404, 405, 414 or 501 may
    be stored (RFC 9110 §15.1).
    """
    detail: dict[str, object] = {
        "type": failure.type,
        "title": failure.title,
        "status": failure.status,
        "kind": failure.kind.value,
        "request_id": request_id.decode("latin-1"),
    }
    if trace_id:
        detail["trace_id"] = trace_id.decode("ascii")
    if failure.public:
        detail["detail"] = failure.public
    all_fields: Fields = [
        (b"Content-Type", b"application/problem+json"),
        (b"Cache-Control", b"no-store"),
        (b"X-Request-Id", request_id),
    ]
    if failure.status == 503:
        all_fields.append((b"Retry-After", b"%d" % failure.retry_after))
    all_fields += fields or []
    return Response(failure.status, all_fields, orjson.dumps(detail))
