"""The pages for users of other gateways: nginx and the gateway do the same, and the other files are what they claim."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from passerelle.config import inspect_text
from passerelle.system.ports import free
from tests.conformance.conftest import loop, rig
from tests.docs.pages import ROOT, blocks
from tests.export.serving import Nginx
from tests.support.client import Client
from tests.support.gateways import Rig

__all__ = ["loop", "rig"]

FOLDER = ROOT / "docs/how-to/coming-from"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))


def files(page: str) -> dict[str, str]:
    return {block.value: block.text for block in blocks(FOLDER / f"{page}.md") if block.name == "file"}


class Server(BaseHTTPRequestHandler):
    """Responds with what it has received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length", 0))
        body = json.dumps({"path": self.path, "method": self.command, "length": len(self.rfile.read(length))}).encode()
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def both(rig: Rig) -> Iterator[dict[str, tuple[int, list[Any]]]]:
    """The files of the nginx page, each over servers of its own: the ports, and what the servers have received."""
    found = files("nginx")
    result: dict[str, tuple[int, list[Any]]] = {}
    with ExitStack() as stack:
        for program in ("nginx", "passerelle"):
            seen: list[Any] = []
            ports = {}
            for written in ("5001", "5002", "5003", "5004"):
                server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
                server.daemon_threads = True
                server.seen = seen  # type: ignore[attr-defined]
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                ports[written] = str(server.server_port)
            replace = re.compile("|".join(ports))
            if program == "nginx":
                port = free()
                text = replace.sub(lambda match: ports[match[0]], found["nginx.conf"]).replace("8081", str(port))  # noqa: B023
                nginx = stack.enter_context(Nginx(text.replace("http {", "http {\n    access_log off;", 1), port))
                result[program] = nginx.port, seen
            else:
                text = replace.sub(lambda match: ports[match[0]], found["gateway.yaml"])  # noqa: B023
                config = yaml.safe_load(text)
                result[program] = rig.gateway(config["services"], config["routes"]).port, seen
        yield result


GET, POST = "GET", "POST"
REQUESTS = [
    (GET, "/api/user/1", 0),
    (GET, "/api/user/1?x=%20y", 0),
    (GET, "/api/user/a/b", 0),
    (GET, "/api/user/missing", 0),
    (POST, "/api/user/1", 100),
    (GET, "/product/1", 0),
    (GET, "/product/1", 0),
    (GET, "/product/1?page=2", 0),
    (GET, "/product/missing", 0),
    (GET, "/search?q=1", 0),
    (GET, "/search?q=2", 0),
    (GET, "/search?q=3", 0),
    (GET, "/search?q=4", 0),
    (GET, "/admin/", 0),
    (GET, "/admin/users", 0),
    (POST, "/upload", 1000),
    (POST, "/upload", 2000),
    (GET, "/", 0),
    (GET, "/nowhere", 0),
]


@pytest.mark.needs("nginx")
def test_nginx_and_the_gateway_do_the_same(both: dict[str, tuple[int, list[Any]]]) -> None:
    found: dict[str, list[Any]] = {}
    for program, (port, _) in both.items():
        found[program] = []
        for method, path, length in REQUESTS:
            with Client(port) as client:
                response = client.request(method, path, body=b"x" * length if length else None)
            by_service = response.body.startswith(b'{"path"')
            frame = response.all("X-Frame-Options") if by_service and response.status == 200 else None
            found[program].append((method, path, response.status, response.body if by_service else None, frame))
    assert found["passerelle"] == found["nginx"]
    assert {each[2] for each in found["nginx"]} == {200, 403, 404, 413, 429}
    # The second request for a product was served from the cache, and the fourth search was refused.
    assert both["passerelle"][1] == both["nginx"][1]
    assert both["nginx"][1].count("/product/1") == 1
    assert "/search?q=4" not in both["nginx"][1]


def test_there_are_four_pages() -> None:
    assert PAGES == ["kong", "krakend", "nginx", "traefik"]


@pytest.mark.parametrize("page", PAGES)
def test_both_files_of_a_page_can_be_read_and_have_the_same_servers(page: str) -> None:
    found = files(page)
    assert len(found) == 2
    report = inspect_text(found.pop("gateway.yaml"), environ={}, elsewhere=True)
    assert report.config is not None, report.errors
    targets = {
        target.url.port for service in report.config.services.values() for target in service.all_targets if target.url
    }
    ((name, text),) = found.items()
    if name.endswith(".json"):
        assert json.loads(text)["version"] == 3
    elif name.endswith(".yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    assert {int(port) for port in re.findall(r"127\.0\.0\.1:(5\d{3})", text)} == targets
