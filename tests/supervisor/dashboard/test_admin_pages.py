"""The pages of the admin port that the dashboard needs: its files, its settings, failed requests, explanations."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import passerelle.supervisor.dashboard
from passerelle.config.loader import inspect_text
from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.errors import Failure, Kind
from passerelle.observability.recent_failures import MOST_FAILURES, RecentFailures, has_failed
from tests.supervisor.dashboard.system import Served, System
from tests.supervisor.helpers import until_now
from tests.supervisor.test_reconciler import SERVE
from tests.supervisor.up import up

FOLDER = Path(passerelle.supervisor.dashboard.__file__).parent
TOKEN = "a-token-of-32-visible-characters"
Serve = Callable[..., Served]


def get(served: Served, path: str, **fields: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def read(served: Served, path: str, **fields: str) -> Any:
    status, _, body = get(served, path, **fields)
    assert status == 200, body
    return json.loads(body)


def test_the_page_and_its_files_allow_nothing_from_elsewhere(serve: Serve) -> None:
    served = serve()
    page = (FOLDER / "static" / "index.html").read_text()
    names = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert len(names) >= 6 and all(name.startswith("/dashboard/") for name in names)
    assert not re.search(r"<script>|<style|style=|\son\w+=|https?://", page)
    for path in ("/", *names, "/dashboard/map.js", "/dashboard/panels.js"):
        status, fields, body = get(served, path)
        assert status == 200 and body, path
        policy = fields["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and fields["X-Content-Type-Options"] == "nosniff"
    for path in ("/dashboard/", "/dashboard/../files.py", "/dashboard/vendor/README.md", "/dashboard/index.html"):
        assert get(served, path)[0] == 404, path


def test_scripts_never_make_markup_of_text() -> None:
    for script in (FOLDER / "static").glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script.read_text()
        )


def test_the_vendored_files_are_those_of_the_package() -> None:
    table = (FOLDER / "vendor" / "README.md").read_text()
    found = dict(re.findall(r"\| `(\S+)` \| `\S+` \| `([0-9a-f]{64})` \|", table))
    assert found == {
        name: hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() for name in ("uplot.js", "uplot.css")
    }
    assert "MIT" in (FOLDER / "vendor" / "LICENSE").read_text()


def test_the_files_are_open_and_everything_else_needs_the_token(serve: Serve) -> None:
    served = serve(settings=AdminPort(listen=Address(host="0.0.0.0", port=9900), token=TOKEN), host="0.0.0.0")
    assert get(served, "/")[0] == get(served, "/dashboard/app.js")[0] == 200
    for path in ("/dashboard/settings", "/failures", "/explain?url=/", "/live"):
        assert get(served, path)[0] == 401, path
        assert get(served, path, Authorization=f"Bearer {TOKEN}")[0] == 200, path
    # Not for pages of other origins, though there is nothing in them.
    assert get(served, "/", Host="attacker.test")[0] == 421
    assert get(served, "/dashboard/app.js", Origin="http://attacker.test")[0] == 403


def test_the_settings_state_who_may_change_something(serve: Serve) -> None:
    assert read(serve(), "/dashboard/settings")["may_change"] is True
    served = serve(settings=AdminPort(token=TOKEN, prometheus="http://127.0.0.1:9090"))
    found = read(served, "/dashboard/settings")
    assert (found["by"], found["may_change"], found["has_token"]) == ("local", False, True)
    assert found["prometheus"] == "http://127.0.0.1:9090" and TOKEN not in json.dumps(found)
    assert read(served, "/dashboard/settings", Authorization=f"Bearer {TOKEN}")["may_change"] is True


def test_an_explanation_names_the_route_and_the_reasons(serve: Serve) -> None:
    served = serve()
    found = read(served, "/explain?method=GET&url=/user/42%3Ffull%3D1&host=shop.example")
    assert found["route"]["label"] == "/user/{user_id}" and found["route"]["params"] == {"user_id": "42"}
    assert found["route"]["upstream_path"] == "/user/42?full=1"
    assert read(served, "/explain?method=POST&url=/nowhere")["status"] == 404
    fields = "header=X-A:%201&header=Cookie:%20b%3D1&from=10.0.0.1"
    assert read(served, f"/explain?url=/user/42&{fields}")["route"]["match"] == []
    for query, text in (
        ("method=get&url=/", b"did you mean GET?"),
        ("method=G%00&url=/", b"allowed is a method"),
        ("url=user", b"allowed is a path"),
        ("url=ftp://host/", b"allowed are http and https"),
        ("url=/&header=X-A", b"allowed is 'Name: value'"),
        ("url=/&from=nowhere", b"allowed is an IPv4 or IPv6 address"),
    ):
        status, _, body = get(served, f"/explain?{query}")
        assert status == 400 and text in body, query
    assert read(served, "/explain?url=/%25ff%ff/..%2f%00")["status"] in (400, 404)


@pytest.mark.parametrize(
    ("status", "failure", "expected"),
    [
        (200, None, False),
        (404, None, False),
        (500, None, True),
        (404, Failure(Kind.NO_ROUTE), False),
        (429, Failure(Kind.RATE_LIMITED), False),
        (501, Failure(Kind.METHOD_UNKNOWN), False),
        (499, Failure(Kind.CLIENT_GONE), False),
        (502, Failure(Kind.CONNECT_FAILED), True),
        (200, Failure(Kind.TRUNCATED), True),
    ],
)
def test_what_counts_as_a_failure(status: int, failure: Failure | None, expected: bool) -> None:
    assert has_failed(status, failure) is expected


def test_a_worker_keeps_the_last_failures_and_reports_each_once() -> None:
    recent = RecentFailures()

    def fail(number: int) -> None:
        log = recent.log("/user/{user_id}", "user")
        line = b"/user/%d?password=hunter2" % number, b"h", b"", 502, 0, 0, 0.1, 0.1, 1, "user-1"
        log.add(b"id", b"10.0.0.9", b"GET", *line)

    assert recent.take(full=False) == []
    for number in range(3):
        fail(number)
    found = recent.take(full=False)
    assert [number for number, _ in found] == [1, 2, 3] and "hunter2" not in found[0][1]
    assert json.loads(found[0][1])["service"] == "user"
    assert recent.take(full=False) == []
    for number in range(1000):
        fail(number)
    assert [number for number, _ in recent.take(full=False)] == list(range(954, 1004))
    assert len(recent.take(full=True)) == MOST_FAILURES


def test_failures_of_all_workers_are_kept_without_repetition(serve: Serve) -> None:
    system = System()
    system.failing = {"user": 1.0}
    served = serve(system)
    served.seconds(4)
    found = read(served, "/failures")["failures"]
    assert len(found) == MOST_FAILURES and len({each["line"] for each in found}) == MOST_FAILURES
    last = found[-1]["number"]
    system.failing = {}
    served.seconds(2)
    assert read(served, "/failures")["failures"][-1]["number"] == last


@pytest.mark.slow
@pytest.mark.parametrize("log", ["stdout", pytest.param("off", marks=pytest.mark.long)])
def test_a_failed_request_arrives_with_its_line(tmp_path: Path, log: str) -> None:
    (tmp_path / "serve.py").write_text(SERVE.replace("status = 200", "status = 200 if path == '/' else 500"))
    text = (
        f"access_log: {log}\nservices: {{s: {{run: [python, -S, serve.py, '{{port}}'], health: {{path: /}}}}}}\n"
        "routes: [{path: '/{rest*}', service: s}]\n"
    )
    with up(tmp_path, text) as running:
        running.listening()
        assert running.get("/user/42?secret=1")[0] == 500

        def failures() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(running.get("/failures", running.admin)[1])["failures"]
            return found

        until_now(failures)
        line = json.loads(failures()[0]["line"])
        assert (line["method"], line["route"], line["service"]) == ("GET", "/{rest*}", "s")
        assert line["status"] == 500 and line["instance"] == "s-1" and "secret=1" not in failures()[0]["line"]
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:9090/graph", None),
        ("https://prometheus.internal", None),
        ("javascript:alert(1)", "allowed is an address such as http://127.0.0.1:9090"),
        ("prometheus:9090", "allowed is an address such as http://127.0.0.1:9090"),
        ("http://", "allowed is an address such as http://127.0.0.1:9090"),
        ("http://me:secret@prometheus", "found a user name or password in the address"),
    ],
)
def test_the_address_of_prometheus(url: str, problem: str | None) -> None:
    report = inspect_text(
        f"listen: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0, prometheus: '{url}'}}\n"
        "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    )
    assert [problem in each.message for each in report.errors] == [True] * (problem is not None)
    assert "secret" not in str(report.errors)
