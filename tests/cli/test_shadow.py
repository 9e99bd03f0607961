"""``passerelle shadow``: the report of all workers, as a table, JSON and a page, and the reset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, invoke, up
from tests.support.upstream import Connection, Upstream, ok

ROUTE = "/user/{user_id}"


def reply(body: bytes) -> Upstream:
    def script(conn: Connection) -> None:
        while True:
            conn.read_request()
            conn.send(ok(body, b"Content-Type: application/json"))

    return Upstream(script)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shadow")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Up]:
    old, new = reply(b'{"name": "<b>ada</b>", "price": 12.5}'), reply(b'{"name": "<b>ada</b>", "price": "12.50"}')
    config = f"""
workers: 2
services:
  old: {{targets: ["{old.url}"]}}
  new: {{targets: ["{new.url}"]}}
routes:
  - {{path: "{ROUTE}", service: old, shadow: {{service: new, control: 0%}}}}
  - {{path: /plain, service: old}}
"""
    with up(folder, config) as running:
        running.listening()
        yield running
    old.close()
    new.close()


def report(running: Up, *arguments: str) -> tuple[int, str]:
    return invoke(Path.cwd(), "shadow", "report", *arguments, "--admin", f"127.0.0.1:{running.admin}")


def compared(running: Up) -> int:
    routes = json.loads(report(running, "--json")[1])["routes"]
    return int(routes[ROUTE]["compared"])


def test_the_report_is_of_all_workers_and_a_reset_begins_again(running: Up, folder: Path, tmp_path: Path) -> None:
    for number in range(12):
        assert running.get(f"/user/{number}") == (200, b'{"name": "<b>ada</b>", "price": 12.5}')
    until_now(lambda: compared(running) == 12, 10.0)
    code, out = report(running, ROUTE)
    assert code == 1
    assert out.startswith(f"{ROUTE}: 12 of 12 responses differ; which of it is noise is known after 10 controls\n")
    assert "  12 sent, 12 compared, 0 controls\n" in out
    assert "time to the first byte: p50 " in out
    assert "/price  type        12     number #" in out
    assert "12.5" not in out

    page = tmp_path / "report.html"
    assert report(running, "--html", str(page)) == (1, f"wrote {page}\n")
    text = page.read_text("utf-8")
    assert "<code>/price</code>" in text
    assert "http" not in text and "<b>" not in text

    where = ("--admin", f"127.0.0.1:{running.admin}")
    code, out = invoke(folder, "migrate", "status", "--monolith", "old", *where)
    assert (code, out.splitlines()[0]) == (0, "0 of 2 routes are on services; 1 shadowed, 1 with differences")
    assert re.search(r"^/user/\{user_id\} +shadowed +old +12 of 12 responses differ", out, re.MULTILINE)

    assert invoke(Path.cwd(), "shadow", "reset", *where)[0] == 0
    code, out = report(running)
    assert (code, out.splitlines()[0]) == (1, f"{ROUTE}: no request was sent to the second service yet")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("/plain",), 1, f"no shadow on route '/plain'; routes with a shadow: {ROUTE}"),
        (("--html", "/nowhere/report.html"), 1, "cannot write /nowhere/report.html: No such file or directory"),
        (("--html", "a.html", "--json"), 2, "--html and --json exclude each other"),
    ],
)
def test_what_cannot_be_reported_has_a_reason(running: Up, arguments: tuple[str, ...], code: int, text: str) -> None:
    found = report(running, *arguments)
    assert found[0] == code
    assert text in found[1]
