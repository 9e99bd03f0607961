"""Ordinary files of nginx, and what is imported from them, respond alike to the same requests."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from passerelle.config import inspect_text
from passerelle.importing.nginx import import_nginx
from passerelle.system.ports import free
from tests.conformance.conftest import loop, rig
from tests.export.serving import Nginx
from tests.support.client import Client
from tests.support.gateways import Rig

pytest.importorskip("crossplane")

__all__ = ["loop", "rig"]


class Echo(BaseHTTPRequestHandler):
    """Responds with what it has received. Paths below /deny respond 403, those with `missing` 404."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = {name: self.headers.get(name) for name in ("Host", "X-Real-IP", "X-Kind")}
        number = self.server.server_port
        found = {"path": self.path, "method": self.command, "length": len(self.rfile.read(length)), "port": number}
        body = json.dumps(found | sent).encode()
        denied = self.path.startswith("/deny") or self.headers.get("Authorization") == "bad"
        self.send_response(403 if denied else 404 if "missing" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Internal", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def services() -> Iterator[list[int]]:
    """Two services; their ports."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Echo) for _ in range(2)]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield [server.server_port for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """A folder that the workers of nginx may read."""
    folder = Path(tempfile.mkdtemp(prefix="passerelle-site-"))
    folder.chmod(0o755)
    (folder / "assets").mkdir(mode=0o755)
    for name, text in (("index.html", "<p>home"), ("assets/app.js", "run()"), ("about.html", "<p>about")):
        (folder / name).write_text(text)
    yield folder
    shutil.rmtree(folder)


PROXIED = """
    upstream user { server 127.0.0.1:A; keepalive 8; }
    server {
        listen 127.0.0.1:PORT;
        location /api/user/ {
            proxy_pass http://user/v1/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 5s;
        }
        location /plain { proxy_pass http://127.0.0.1:B; }
        location /inner { proxy_pass http://127.0.0.1:B/outer; }
        location = /exact { proxy_pass http://user/other; }
        location = /status { return 200 ok; }
        location / { return 404; }
    }
"""
HEADERS = """
    server {
        listen 127.0.0.1:PORT;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        add_header X-Frame-Options DENY;
        location / { proxy_pass http://127.0.0.1:A; proxy_hide_header X-Internal; }
        location /own/ {
            proxy_pass http://127.0.0.1:B/;
            proxy_set_header Host other.example;
            proxy_set_header X-Kind special;
            add_header X-Kind own;
        }
    }
"""
SITES = """
    server {
        listen 127.0.0.1:PORT;
        server_name old.example www.old.example;
        return 301 http://new.example$request_uri;
    }
    server {
        listen 127.0.0.1:PORT;
        server_name new.example;
        root SITE;
        index index.html;
        location / { try_files $uri /index.html; }
        location /api/ { proxy_pass http://127.0.0.1:A; }
        location = /moved { return 302 /about.html; }
        location /files/ { alias SITE/assets/; }
    }
"""
LIMITS = """
    limit_req_zone $binary_remote_addr zone=few:1m rate=2r/m;
    client_max_body_size 2k;
    server {
        listen 127.0.0.1:PORT;
        location /few/ {
            limit_req zone=few burst=1 nodelay;
            limit_req_status 429;
            proxy_pass http://127.0.0.1:A;
        }
        location /office/ { allow 192.0.2.0/24; deny all; proxy_pass http://127.0.0.1:A; }
        location /all/ { deny 192.0.2.1; allow all; proxy_pass http://127.0.0.1:A; }
        location /large/ { client_max_body_size 4k; proxy_pass http://127.0.0.1:A; }
        location / { proxy_pass http://127.0.0.1:A; }
    }
"""
CACHED = """
    gzip on;
    gzip_types application/json;
    gzip_min_length 20;
    proxy_cache_path cache keys_zone=all:1m;
    server {
        listen 127.0.0.1:PORT;
        location /stored/ {
            proxy_cache all;
            proxy_cache_valid 200 1m;
            proxy_cache_valid 404 30s;
            proxy_pass http://127.0.0.1:A;
        }
        location / { proxy_pass http://127.0.0.1:A; }
    }
"""
CHECKED = """
    server {
        listen 127.0.0.1:PORT;
        location / {
            auth_request /check;
            proxy_pass http://127.0.0.1:A;
        }
        location = /check {
            internal;
            proxy_pass http://127.0.0.1:B/verify;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }
        location = /open { auth_request off; proxy_pass http://127.0.0.1:A; }
    }
"""
Request = tuple[str, str, dict[str, str], int]


def get(path: str, **fields: str) -> Request:
    return "GET", path, {name.replace("_", "-"): value for name, value in fields.items()}, 0


def post(path: str, length: int) -> Request:
    return "POST", path, {}, length


FILES: dict[str, tuple[str, list[Request], set[int]]] = {
    "proxied": (
        PROXIED,
        [
            *(get("/api/user/1"), get("/api/user/a/b?x=%20y"), get("/api/user/missing"), post("/api/user/1", 100)),
            *(get("/plain"), get("/plain/x"), get("/inner"), get("/inner/x"), get("/exact"), get("/status")),
            *(get("/"), get("/nowhere"), post("/plain", 2 * 1024 * 1024)),
        ],
        {200, 404, 413},
    ),
    "headers": (HEADERS, [get("/"), get("/a/b"), get("/own/x"), get("/own/missing"), get("/missing")], {200, 404}),
    "sites": (
        SITES,
        [
            *(get("/a?b=1", Host="old.example"), get("/", Host="www.old.example"), get("/", Host="new.example")),
            *(get("/about.html", Host="new.example"), get("/assets/app.js", Host="new.example")),
            *(get("/no/such/page", Host="new.example"), get("/api/x", Host="new.example")),
            *(get("/moved", Host="new.example"), get("/files/app.js", Host="new.example")),
            get("/files/none.js", Host="new.example"),
        ],
        {200, 301, 302, 404},
    ),
    "limits": (
        LIMITS,
        [
            *(get("/few/1"), get("/few/2"), get("/few/3"), get("/office/1"), get("/all/1"), get("/other")),
            *(post("/x", 2000), post("/x", 3000), post("/large/x", 3000), post("/large/x", 5000)),
        ],
        {200, 403, 413, 429},
    ),
    "cached": (
        CACHED,
        [
            *(get("/stored/1"), get("/stored/1"), get("/stored/missing"), get("/stored/missing"), get("/x")),
            get("/x", Accept_Encoding="gzip"),
        ],
        {200, 404},
    ),
    "checked": (CHECKED, [get("/a"), get("/a", Authorization="bad"), get("/open", Authorization="good")], {200, 403}),
}
_COMPARED = ("location", "x-frame-options", "x-kind", "x-internal", "content-encoding")


def send(port: int, request: Request) -> tuple[Any, ...]:
    """Send one request; return the status, the body of a service or a file, and the compared fields."""
    method, path, fields, length = request
    host = fields.get("Host", "gw")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in fields.items() if n != "Host")]
    if length:
        lines.append(f"Content-Length: {length}")
    with Client(port) as client:
        client.send("\r\n".join([*lines, "", ""]).encode() + b"x" * length)
        response = client.read_response(method)
    own = response.get("content-type") or b""
    body = (
        response.body
        if own.startswith(b"application/json") or response.body.startswith((b"<p>", b"run", b"ok"))
        else None
    )
    # nginx makes relative locations absolute, with its port; errors of either have no fields of the service.
    values = tuple(response.get(name) if response.status < 400 else None for name in _COMPARED)
    location = re.sub(rb"^http://[^/]*:\d+|^http://gw", b"", values[0]) if values[0] is not None else None
    if location is not None and b"about" in location:
        location = re.sub(rb"^http://new\.example", b"", location)
    if response.get("content-encoding") is not None or response.status == 403:
        body = None
    return path, response.status, body, location, *values[1:]


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", FILES)
def test_nginx_and_what_is_imported_respond_alike(
    rig: Rig, services: list[int], site: Path, tmp_path: Path, name: str
) -> None:
    text, requests, statuses = FILES[name]
    port = free()
    text = "events {}\nhttp {\n" + text.strip("\n") + "\n}\n"
    for mark, value in (("PORT", port), ("SITE", site), (":A", f":{services[0]}"), (":B", f":{services[1]}")):
        text = text.replace(mark, str(value))
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    made, skipped = import_nginx(str(file))
    assert [str(each) for each in skipped if "paths such as" not in each.why] == []
    assert inspect_text(made, environ={}).config is not None
    config = yaml.safe_load(made)
    top = {key: value for key, value in config.items() if key not in ("services", "routes", "listen")}
    gateway = rig.gateway(config["services"], config["routes"], **top)
    with Nginx(text.replace("http {", "http {\n    access_log off;", 1), port):
        theirs = [send(port, request) for request in requests]
    ours = [send(gateway.port, request) for request in requests]
    for our, their in zip(ours, theirs, strict=True):
        assert our == their
    assert {their[1] for their in theirs} == statuses
