"""A collector of spans: an OTLP/HTTP server that validates what it receives, or misbehaves as told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from tests.support.wire import wait_until

Answer = tuple[int, dict[str, str], bytes]
KINDS = {1: "internal", 2: "server", 3: "client"}


class Span:
    """One received span, with its attributes as a dict."""

    def __init__(self, message: Message, resource: dict[str, Any]) -> None:
        self.resource = resource
        self.name = message.name
        self.kind = KINDS[message.kind]
        self.trace_id, self.span_id = message.trace_id.hex(), message.span_id.hex()
        self.parent_id = message.parent_span_id.hex()
        self.state = message.trace_state
        self.start, self.end = message.start_time_unix_nano, message.end_time_unix_nano
        self.failed = message.status.code == 2
        self.attributes = values(message.attributes)
        assert len(message.trace_id) == 16 and len(message.span_id) == 8, "ids of the right length"
        assert 0 < self.start <= self.end

    def __repr__(self) -> str:
        return f"{self.kind} {self.name} {self.attributes}"


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class Collector:
    """Receives spans on a free port. ``answer`` decides about each request; accepted spans are in ``spans``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.requests: list[dict[str, str]] = []
        self.errors: list[BaseException] = []
        self.answer: Callable[[int], Answer] = lambda number: (200, {}, b"{}")
        self.hold: threading.Event | None = None
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append({name.lower(): value for name, value in self.headers.items()})
                if collector.hold is not None:
                    collector.hold.wait(30)
                status, fields, content = collector.answer(len(collector.requests) - 1)
                if status == 200:
                    collector.take(self.headers["Content-Type"], body)
                self.send_response(status)
                for name, value in {**fields, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def take(self, media_type: str, body: bytes) -> None:
        """Take an export request; what is not valid OTLP is an error that :meth:`close` raises."""
        message = ExportTraceServiceRequest()
        try:
            if media_type == "application/json":
                Parse(with_base64_ids(body), message)
            else:
                message.ParseFromString(body)
            for each in message.resource_spans:
                resource = values(each.resource.attributes)
                self.spans += [Span(span, resource) for scope in each.scope_spans for span in scope.spans]
        except BaseException as error:
            self.errors.append(error)

    def wait(self, count: int, within: float = 10.0) -> list[Span]:
        """Wait for ``count`` spans; return all of them."""
        wait_until(lambda: len(self.spans) >= count or self.errors, f"{count} spans, received {self.spans}", within)
        self.check()
        return list(self.spans)

    def trace(self, server_spans: int = 1, within: float = 10.0) -> list[Span]:
        """Wait for the spans of ``server_spans`` requests; return all spans."""

        def arrived() -> bool:
            return sum(span.kind == "server" for span in list(self.spans)) >= server_spans or bool(self.errors)

        wait_until(arrived, f"{server_spans} server spans", within)
        self.check()
        return list(self.spans)

    def check(self) -> None:
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self.check()


def with_base64_ids(body: bytes) -> str:
    """Return OTLP in JSON as the JSON mapping of protobuf has it: OTLP alone writes ids in hexadecimal."""
    import base64
    import json

    document = json.loads(body)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        assert span[key] == span[key].lower()
                        span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json.dumps(document)
