"""OTLP: the JSON of an export request (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding)."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from passerelle.observability.tracing.trace import FinishedSpans

# The longest value of an attribute, in characters.
MOST_TEXT = 2048
_ERROR = 2  # STATUS_CODE_ERROR


def envelope(resource: Mapping[str, str | int], version: str) -> tuple[bytes, bytes]:
    """Return the bytes before and after the spans of an export request."""
    head = orjson.dumps({"attributes": _attributes(resource)})
    scope = orjson.dumps({"name": "passerelle", "version": version})
    return b'{"resourceSpans":[{"resource":%b,"scopeSpans":[{"scope":%b,"spans":[' % (head, scope), b"]}]}]}"


def encode(finished: FinishedSpans) -> list[bytes]:
    """Return the JSON of each span. Takes about 6 µs for one."""
    trace_id, state, flags, offset, spans = finished
    encoded = []
    for span in spans:
        start = int((span.start + offset) * 1e9)
        made: dict[str, object] = {
            "traceId": trace_id.decode("ascii"),
            "spanId": span.span_id.decode("ascii"),
            "flags": flags,
            "name": span.name,
            "kind": span.kind,
            "startTimeUnixNano": str(start),
            "endTimeUnixNano": str(max(start, int((span.end + offset) * 1e9))),
            "attributes": _attributes(span.attributes),
        }
        if span.parent_id:
            made["parentSpanId"] = span.parent_id.decode("ascii")
        if state:
            made["traceState"] = state.decode("ascii")
        if span.error:
            made["status"] = {"code": _ERROR, "message": span.error}
        encoded.append(orjson.dumps(made))
    return encoded


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, object]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: str | int) -> dict[str, str]:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value[:MOST_TEXT]}
