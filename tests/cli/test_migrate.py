"""``passerelle migrate``: the file from each source, what is never overwritten, and the status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from passerelle.config import load
from tests.supervisor.up import invoke

APP = """
from flask import Flask
app = Flask(__name__, static_folder=None)
app.add_url_rule("/user/<int:user_id>", "user", lambda user_id: "", methods=["GET", "PUT"])
app.add_url_rule("/price$$/<path:rest>", "price", lambda rest: "")
"""
LINE = '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "{}" 200 2326\n'
WHERE = ("--address", "http://127.0.0.1:5000")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "monolith_app.py").write_text(APP)
    requests = [
        "GET /user/1 HTTP/1.1",
        "GET /user/2 HTTP/1.1",
        "PUT /user/2 HTTP/1.1",
        "GET /price$$/a HTTP/1.1",
        "bad",
    ]
    (tmp_path / "access.log").write_text("".join(LINE.format(request) for request in requests))
    paths = {"/user/{user_id}": {"get": {}, "put": {}}, "/x": {"$ref": "#/x"}}
    (tmp_path / "openapi.json").write_text(json.dumps({"openapi": "3.1.0", "paths": paths}))
    return tmp_path


def test_an_application_becomes_a_file_with_its_routes_and_its_traffic(folder: Path) -> None:
    code, out = invoke(
        folder, "migrate", "--app", "monolith_app:app", "--log", "access.log", "-o", "first/gateway.yaml"
    )
    assert code == 0, out
    assert out.splitlines() == [
        "3 routes of monolith_app:app",
        "4 requests in 5 lines",
        "METHODS  PATH              REQUESTS  TOGETHER WITH             SHADOW",
        "GET      /user/{user_id}   2         PUT /user/{user_id} 100%  yes",
        "PUT      /user/{user_id}   1         GET /user/{user_id} 100%  no: PUT may change data, and both services "
        "would do it",
        "GET      /price$$/{rest*}  1         GET /user/{user_id} 100%  yes",
        "1 line was not read: 1 no request line",
        "  access.log:5: no request line",
        "",
        "wrote first/gateway.yaml",
    ]
    config = load(folder / "first" / "gateway.yaml")
    assert [route.label for route in config.routes] == [
        "GET /user/{user_id}",
        "PUT /user/{user_id}",
        "GET /price$$/{rest*}",
        "/{path*}",
    ]
    assert config.services["monolith"].app == "monolith_app:app"
    assert config.services["monolith"].cwd == folder / "first" / ".."


def test_an_openapi_document_and_a_log_have_the_same_route(folder: Path) -> None:
    code, out = invoke(folder, "migrate", "--openapi", "openapi.json", *WHERE, "--json")
    assert code == 0, out
    described = json.loads(out)
    assert [each["path"] for each in described["routes"]] == ["/user/{user_id}"] * 2
    assert described["refused"] == [{"source": "/x", "why": "$ref '#/x' leads nowhere"}]
    first = load(folder / "gateway.yaml")
    code, out = invoke(folder, "migrate", "--log", "access.log", *WHERE, "--force")
    assert code == 0, out
    second = load(folder / "gateway.yaml")
    assert first.routes[0] == second.routes[0]
    assert str(second.services["monolith"].all_targets[0].url) == "127.0.0.1:5000"


def test_a_file_is_not_overwritten(folder: Path) -> None:
    (folder / "gateway.yaml").write_text("mine")
    code, out = invoke(folder, "migrate", "--log", "access.log", *WHERE)
    assert (code, out) == (1, "gateway.yaml exists; --force replaces it, and -o names another file\n")
    assert (folder / "gateway.yaml").read_text() == "mine"
    (folder / "link.yaml").symlink_to(folder / "nowhere")
    assert invoke(folder, "migrate", "--log", "access.log", *WHERE, "-o", "link.yaml")[0] == 1
    assert not (folder / "nowhere").exists()
    assert invoke(folder, "migrate", "--log", "access.log", *WHERE, "--force")[0] == 0
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "give the routes: --app, --openapi or --log"),
        (("--app", "a:b", "--openapi", "x", *WHERE), 2, "--app and --openapi exclude each other"),
        (("--log", "access.log"), 2, "give the address of the monolith, such as --address http://127.0.0.1:5000"),
        (("--log", "access.log", "--address", "127.0.0.1:5000"), 2, "without a scheme"),
        (("--app", "a:b", "--python", "/usr/bin/python3"), 2, "give the address of the monolith"),
        (("--python", "x", "--log", "access.log", *WHERE), 2, "--python has no effect without --app"),
        (("--app", "a:b", "--python", "/nowhere/python", *WHERE), 1, "cannot run /nowhere/python: no such file"),
        (("--app", "a.py:b"), 2, "a module is named without .py: a:b"),
        (("--log", "none.log", *WHERE), 1, "cannot read none.log: no such file or directory"),
        (("--log", "/dev/null", *WHERE), 1, "cannot read /dev/null: it is not a file, and a log is read twice"),
        (("--log", "access.log", *WHERE, "-o", "-", "--json"), 2, "--json and -o - exclude each other"),
        (("--log", "access.log", *WHERE, "-o", "access.log/x.yaml"), 1, "cannot write access.log/x.yaml: "),
    ],
)
def test_what_cannot_be_written_has_a_reason(folder: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    found = invoke(folder, "migrate", *arguments)
    assert found[0] == code, found[1]
    assert text in found[1]
    assert not (folder / "gateway.yaml").exists()


def test_a_table_that_the_gateway_cannot_have_is_refused(folder: Path) -> None:
    paths = {}
    for number in range(2**10):
        bits = [f"{{p{place}}}" if number >> place & 1 else "a" for place in range(10)]
        paths["/" + "/".join(bits)] = {"get": {}}
    (folder / "openapi.json").write_text(json.dumps({"openapi": "3.1.0", "paths": paths}))
    code, out = invoke(folder, "migrate", "--openapi", "openapi.json", *WHERE)
    assert code == 1
    assert "the gateway cannot have this table of routes:" in out
    assert not (folder / "gateway.yaml").exists()


def test_what_a_document_has_in_its_names_stays_within_its_line(folder: Path) -> None:
    name = "/x\n  - {path: /evil, service: monolith} #"
    (folder / "openapi.json").write_text(
        json.dumps({"openapi": "3.1.0", "paths": {name: {"get": {}}, '/"${HOME}"/{a: b}': {"get": {}}}})
    )
    code, out = invoke(folder, "migrate", "--openapi", "openapi.json", *WHERE)
    assert code == 0, out
    assert all("evil" not in route.path.split("/") for route in load(folder / "gateway.yaml").routes)


def test_the_status_is_that_of_the_file(folder: Path) -> None:
    assert invoke(folder, "migrate", "--log", "access.log", *WHERE)[0] == 0
    text = (folder / "gateway.yaml").read_text().replace("admin: 127.0.0.1:9900", "admin: 127.0.0.1:1")
    text = text.replace("routes:\n", '  user: {targets: ["http://127.0.0.1:5001"]}\nroutes:\n', 1)
    text = text.replace("methods: [PUT], service: monolith", "methods: [PUT], service: user")
    text = text.replace(
        "methods: [GET], service: monolith", "methods: [GET], service: monolith, shadow: {service: user}", 1
    )
    (folder / "gateway.yaml").write_text(text)
    code, out = invoke(folder, "migrate", "status")
    assert code == 0, out
    assert out.splitlines() == [
        "1 of 3 routes are on services; 1 shadowed",
        "no gateway responds at the admin address, so only the file is known",
        "ROUTE                STATE     SERVICE",
        "GET /price$$/a       monolith  monolith",
        "GET /user/{user_id}  shadowed  monolith",
        "PUT /user/{user_id}  services  user",
    ]
    found = json.loads(invoke(folder, "migrate", "status", "--json")[1])
    assert found["counts"] == {"monolith": 1, "shadowed": 1, "moving": 0, "services": 1}
    assert (found["monolith"], found["gateway"]) == ("monolith", False)


def test_the_status_of_a_file_that_cannot_be_read_has_a_reason(folder: Path) -> None:
    assert invoke(folder, "migrate", "status") == (
        2,
        "passerelle migrate status: found neither gateway.yaml nor passerelle.yaml in this folder; give the path of "
        "the file (see passerelle migrate status --help)\n",
    )
    (folder / "gateway.yaml").write_text("services: {a: {targets: ['http://127.0.0.1:1']}}\nroutes: []\n")
    code, out = invoke(folder, "migrate", "status")
    assert (code, out.count("\n")) == (1, 1), out
