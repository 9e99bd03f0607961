"""The services behind both gateways of a migration: they describe the request that they received as JSON.

Parameters of the query choose the response: ``status``, ``field`` (``NAME: VALUE``, repeatable), ``size`` (so many
bytes of text in place of JSON), ``delay`` (seconds) and ``count`` (the response has the number of requests for its
path). ``/empty`` is a path with 204, for health checks. ``/verify`` responds with the status in ``X-Status``, and names
the user.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

# Fields that belong to a gateway's own connection, or that differ in every request.
_UNCOMPARED = {
    "accept-encoding",
    "connection",
    "content-length",
    "keep-alive",
    "transfer-encoding",
    "user-agent",
    "via",
    "x-request-id",
}


class Handler(BaseHTTPRequestHandler):
    """Responds to one connection."""

    protocol_version = "HTTP/1.1"
    server: Service

    def respond(self) -> None:
        """Read the request and send its description."""
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        fields = {name.lower(): value for name, value in sorted(self.headers.items())}
        self.server.counts[path] += 1
        found: dict[str, Any] = {
            "service": self.server.name,
            "method": self.command,
            "target": self.path,
            "fields": {name: value for name, value in fields.items() if value and name not in _UNCOMPARED},
            "body": self.rfile.read(int(fields.get("content-length", 0))).decode("latin-1"),
        }
        if "count" in query:
            found["count"] = self.server.counts[path]
        body = json.dumps(found, indent=1).encode()
        kind = "application/json"
        if "delay" in query:
            time.sleep(float(query["delay"][0]))
        if "size" in query:
            body, kind = b"lorem ipsum " * (int(query["size"][0]) // 12), "text/plain"
        wanted = fields.get("x-status", "200") if path == "/verify" else "204" if path == "/empty" else "200"
        status = int(query.get("status", [wanted])[0])
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        if path == "/verify":
            self.send_header("X-User", "ada")
        for field in query.get("field", []):
            self.send_header(*field.split(": ", 1))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = respond

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


class Service(ThreadingHTTPServer):
    """A service with a name, on a free port of the loopback or on a Unix socket."""

    daemon_threads = True
    handle_error = staticmethod(lambda request, address: None)  # the end of a health check resets its connection

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address as ``host:port``."""
        return f"127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Stop the service."""
        self.shutdown()
        self._thread.join(10)
        self.server_close()
