"""The walk of the crossing: its services with their defects, its configurations, its visitors, and its verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Response

from crossing import configurations
from crossing.configurations import Pace, Place
from crossing.load import COMPOSED, Figures, Outcome, Visitors
from crossing.services import DEFECTS, DELAY, SERVED_BY, Served
from crossing.walk import is_good, table
from passerelle.config import load_text
from passerelle.migration.progress import progress_of
from tests.examples.conftest import SHOP
from tests.support.upstream import Connection, Upstream, ok

DOCUMENTS = {
    "/user/107": {"user_id": "107", "username": "user_107", "email": "user_107@example.com"},
    "/user/108": {"user_id": "108", "username": "user_108", "email": "user_108@example.com"},
    "/product/1": {"product_id": "1", "name": "Produit_1", "price": 19.99},
}


def respond(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    response = Response("fine") if path == "/healthz" else Response(json.dumps(DOCUMENTS[path]))
    response.mimetype = "application/json"
    return response(environ, start_response)


@pytest.mark.parametrize(
    ("defect", "path", "changed"),
    [
        (None, "/user/107", {}),
        ("price-as-text", "/product/1", {"price": "19.99"}),
        ("price-as-text", "/user/107", {}),
        ("missing-email", "/user/107", {"email": None}),
        ("missing-email", "/user/108", {}),
        ("three-times-slower", "/user/107", {}),
    ],
)
def test_a_service_has_its_name_its_delay_and_its_defect(
    defect: str | None, path: str, changed: dict[str, object]
) -> None:
    began = time.monotonic()
    response = Client(Served("users", respond, defect)).get(path)
    assert time.monotonic() - began >= DELAY * (3 if defect == "three-times-slower" else 1)
    assert response.headers[SERVED_BY] == "users"
    wanted = {key: value for key, value in (DOCUMENTS[path] | changed).items() if value is not None}
    assert response.get_json() == wanted


def test_probes_are_neither_delayed_nor_changed() -> None:
    response = Client(Served("users", respond, "missing-email")).get("/healthz")
    assert response.text == "fine" and SERVED_BY not in response.headers


def place(tmp_path: Path) -> Place:
    return Place(8080, 9900, tmp_path, SHOP)


def test_each_file_of_the_walk_is_valid_and_the_last_one_has_no_monolith(tmp_path: Path) -> None:
    for defect, (resource, _) in DEFECTS.items():
        config = load_text(configurations.rolled_out(place(tmp_path), Pace(), (resource,), defect))
        new = config.services[configurations.NEW[resource]]
        assert new.env == {"CROSSING_DEFECT": defect}
    both = load_text(configurations.rolled_out(place(tmp_path), Pace(), ("user", "product")))
    assert [each.state for each in progress_of(both, "monolith", {})] == ["shadowed", "shadowed"]
    last = load_text(configurations.composed(place(tmp_path)))
    assert set(last.services) == {"users", "products"}
    assert last.routes[-1].compose is not None


def outcome(status: int, seconds: float, served_by: str = "monolith") -> Outcome:
    return Outcome(0.0, 1, "user", status, seconds, served_by)


def test_figures_are_of_all_requests() -> None:
    found = Figures.of([outcome(200, n / 1000) for n in range(1, 101)] + [outcome(502, 9.0), outcome(0, 9.0, "")])
    assert (found.requests, found.failed, found.served_by) == (102, 2, {"monolith": 100})
    assert found.p50 == 51.5 and found.p99 > 8000
    assert Figures.of([]) == Figures()
    assert Figures.of([outcome(200, 0.5)]).p99 == 500.0
    assert table([{"part": "all", "requests": 3, "failed": 0, "p50": 1.5, "p99": 2.0}]).splitlines() == [
        "   part  requests  failed  p50 ms  p99 ms",
        "   all          3       0     1.5     2.0",
    ]


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"caught": False}, False),
        ({"saw": 50}, True),
        ({"saw": 51}, False),
        ({"failed": 1}, False),
        ({"after": 1}, False),
    ],
)
def test_a_defect_is_caught_in_time_or_not(changed: dict[str, object], good: bool) -> None:
    assert is_good({"caught": True, "visitors": 5000, "saw": 0, "failed": 0, "after": 0, **changed}) is good


def test_visitors_keep_their_rate_and_count_what_fails() -> None:
    def script(conn: Connection) -> None:
        while True:
            target = conn.read_request().target
            field = b"X-Served-By: users" if target.startswith(b"/user/") else b"X-Other: 1"
            conn.send(ok(b"{}", field))

    upstream = Upstream(script)
    with Visitors(upstream.port, 200, 10, ("user", "api")) as visitors:
        deadline = time.monotonic() + 30
        while len(visitors.outcomes) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
    upstream.close()
    assert {(each.status, each.kind, each.served_by) for each in visitors.outcomes} == {
        (200, "user", "users"),
        (200, "api", COMPOSED),
    }
    assert {each.visitor for each in visitors.outcomes} == set(range(10))
    with Visitors(upstream.port, 200, 10, ("user",)) as visitors:
        while not visitors.outcomes and time.monotonic() < deadline:
            time.sleep(0.01)
    assert {each.status for each in visitors.outcomes} == {0}


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_price_as_text_is_caught_before_a_visitor_sees_it(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "crossing", "--only", "price-as-text", "--json", str(report)]
    done = subprocess.run(command, cwd=SHOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (found,) = json.loads(report.read_text())["defects"]
    assert (found["reason"], found["saw"], found["failed"]) == ("the responses differ", 0, 0)
    assert found["evidence"]["differences"] == found["evidence"]["comparisons"] >= Pace().comparisons
