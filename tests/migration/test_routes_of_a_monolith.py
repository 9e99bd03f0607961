"""The routes of a monolith: patterns, methods, what is safe to shadow, Flask's rules and OpenAPI documents."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.migration.application import read_application
from passerelle.migration.documents import read_document
from passerelle.migration.found_routes import FoundRoute, SourceError, Variable, arrange, to_pattern, why_not_shadowed
from passerelle.migration.openapi import read_openapi
from passerelle.routing.paths import Pattern, PatternError

SHOP = Path(__file__).parents[2] / "examples" / "shop"

REST = Variable("rest", is_rest=True)


@pytest.mark.parametrize(
    ("pieces", "path", "notes"),
    [
        (["/user/", Variable("user_id")], "/user/{user_id}", []),
        (["/user/", Variable("user-id"), "/", Variable("user.id")], "/user/{user_id}/{user_id_2}", []),
        (["/files/", REST], "/files/{rest*}", []),
        (["/files/", REST, "/edit"], "/files/{rest*}", ["{rest*} covers more: it ends the path"]),
        (["/v", Variable("n"), "/x"], "/{n}/x", ["{n} is a whole segment"]),
        (["/a//b/"], "/a/b/", []),
        (["/"], "/", []),
        (["/café à/", Variable("2nd")], "/caf%C3%A9%20%C3%A0/{_2nd}", []),
        (["/", Variable("é")], "/{id}", []),
    ],
)
def test_a_path_becomes_a_pattern(pieces: list[str | Variable], path: str, notes: list[str]) -> None:
    assert to_pattern(pieces) == (path, notes)


@given(st.lists(st.one_of(st.text(max_size=8), st.builds(Variable, st.text(max_size=8), st.booleans())), max_size=8))
def test_any_path_becomes_a_valid_pattern_or_is_refused(pieces: list[str | Variable]) -> None:
    try:
        path, _ = to_pattern(["/", *pieces])
    except PatternError:
        return
    assert str(Pattern.parse(path)) == path


def test_reads_and_writes_of_a_path_are_separate_routes_and_names_of_parameters_do_not_matter() -> None:
    found = arrange(
        [
            FoundRoute("/user/{id}", ("GET", "HEAD", "DELETE"), source="/user/<int:id>"),
            FoundRoute("/user/{name}", ("PUT",), source="/user/<name>"),
            FoundRoute("/any/{id}", ("GET",)),
            FoundRoute("/any/{id}"),
            FoundRoute("/user/{id}", ("GET",), host="a.example"),
        ]
    )
    assert [route.label for route in found] == [
        "GET /user/{id}",
        "PUT,DELETE /user/{id}",
        "/any/{id}",
        "GET a.example/user/{id}",
    ]
    assert found[0].notes == ("one route for /user/<int:id> and /user/<name>",)


@pytest.mark.parametrize(
    ("path", "methods", "why"),
    [
        ("/user/{id}", ("GET",), None),
        ("/posts", (), None),
        ("/user", ("GET", "POST"), "POST may change data, and both services would do it"),
        ("/log-out", ("GET",), "a GET of 'log-out' may have effects; shadow it if it has none"),
        ("/user/{id}/confirm_email", ("GET",), "a GET of 'confirm-email' may have effects; shadow it if it has none"),
        ("/author/{login}", ("GET",), None),
    ],
)
def test_what_may_have_effects_is_not_shadowed(path: str, methods: tuple[str, ...], why: str | None) -> None:
    assert why_not_shadowed(FoundRoute(path, methods)) == why


FLASK = """
import subprocess, sys
from flask import Flask
print("a line on stdout")
print("a line on stderr", file=sys.stderr)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # holds the pipes open
def make():
    app = Flask(__name__, static_folder=None)
    view = lambda **values: ""
    for rule, methods in [
        ("/user/<int:user_id>", ["GET", "PUT"]),
        ("/files/<path:name>", ["GET"]),
        ("/page/<any(about, 'help, me'):page>", ["GET"]),
        ("/report/<name>.<ext>", ["GET"]),
        ("/options", ["OPTIONS"]),
    ]:
        app.add_url_rule(rule, rule.replace(".", " "), view, methods=methods)
    app.add_url_rule("/only-built", "built", build_only=True)
    return app
app = make()
none = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    (folder / "shop.py").write_text(FLASK)
    (folder / "broken.py").write_text("raise RuntimeError('no database')")
    (folder / "slow.py").write_text("import time\ntime.sleep(600)")
    openapi = {"openapi": "3.1.0", "paths": {"/user/{id}": {"get": {}}}}
    (folder / "fast.py").write_text(f"class App:\n    def openapi(self): return {openapi}\napp = App()")
    return folder


def test_rules_of_flask_are_read_whatever_the_application_prints_and_starts(folder: Path) -> None:
    found, refused = read_application("shop:make()", sys.executable, folder, 60.0)
    assert [(route.methods, route.path, route.source) for route in found] == [
        (("GET", "HEAD", "PUT"), "/user/{user_id}", "/user/<int:user_id>"),
        (("GET", "HEAD"), "/files/{name*}", "/files/<path:name>"),
        (("GET", "HEAD"), "/page/{page}", "/page/<any(about, 'help, me'):page>"),
        (("GET", "HEAD"), "/report/{name_ext}", "/report/<name>.<ext>"),
        (("OPTIONS",), "/options", "/options"),
    ]
    assert refused == []


def test_an_application_with_openapi_is_read_as_a_document(folder: Path) -> None:
    found, _ = read_application("fast:app", sys.executable, folder, 60.0)
    assert [route.label for route in found] == ["GET /user/{id}"]


@pytest.mark.parametrize(
    ("app", "limit", "why"),
    [
        ("broken:app", 60.0, "importing broken:app failed: RuntimeError: no database"),
        ("nowhere:app", 60.0, "there is no module 'nowhere' in "),
        ("fast:none", 60.0, "module 'fast' has no attribute 'none'"),
        ("fast:App.openapi", 60.0, "'fast:App.openapi' has no url_map as Flask's applications have"),
        ("slow:app", 0.3, "slow:app was not imported within 0.3 s"),
    ],
)
def test_an_application_that_cannot_be_read_has_a_reason(folder: Path, app: str, limit: float, why: str) -> None:
    with pytest.raises(SourceError) as raised:
        read_application(app, sys.executable, folder, limit)
    assert str(raised.value).startswith(why)


def test_the_document_of_the_shop_is_read_with_its_other_files() -> None:
    found, refused = read_openapi(SHOP / "openapi" / "monolith.yaml")
    assert [route.label for route in arrange(found)] == [
        "GET /user",
        "POST /user",
        "GET /user/{user_id}",
        "PUT,DELETE /user/{user_id}",
        "GET /product",
        "POST /product",
        "GET /product/{product_id}",
        "PUT,DELETE /product/{product_id}",
        "GET /api/{user_id}/{product_id}",
        "GET /healthz",
    ]
    assert refused == []


def document(tmp_path: Path, paths: object, **more: object) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps({"openapi": "3.0.3", "paths": paths, **more}))
    return path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://api.example.com/v1/", "/v1/user"),
        ("/{base}/x", "/v2/x/user"),
        ("https://api.example.com", "/user"),
        ("https://[", "/user"),
    ],
)
def test_the_path_of_the_first_server_comes_first(tmp_path: Path, url: str, path: str) -> None:
    servers = [{"url": url, "variables": {"base": {"default": "v2"}}}]
    found, _ = read_openapi(document(tmp_path, {"/user": {"get": {}}}, servers=servers))
    assert found[0].path == path


def test_path_items_that_cannot_be_followed_are_listed_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    paths = {
        "/good": {"get": {}},
        "/circle": {"$ref": "#/paths/~1ring"},
        "/ring": {"$ref": "#/paths/~1circle"},
        "/net": {"$ref": "http://127.0.0.1:1/x.yaml"},
        "/up": {"$ref": "../x.yaml#/a"},
        "/none": {"$ref": "#/nothing/here"},
        "/file": {"$ref": "missing.yaml#/a"},
        "/list": [],
        "/a{b": {"get": {}},
    }
    found, refused = read_openapi(document(tmp_path, paths))
    assert [route.path for route in found] == ["/good"]
    assert [(each.source, each.why.replace(str(tmp_path), "…")) for each in refused] == [
        ("/circle", "its $ref leads back to itself"),
        ("/ring", "its $ref leads back to itself"),
        ("/net", "$ref 'http://127.0.0.1:1/x.yaml' is not followed: it is not a file"),
        ("/up", "$ref '../x.yaml#/a' is not followed: it leaves the folder of the document"),
        ("/none", "$ref '#/nothing/here' leads nowhere"),
        ("/file", "cannot read …/missing.yaml: no such file or directory"),
        ("/list", "found no mapping of methods"),
        ("/a{b", "found '/a{b' with a lone brace"),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("openapi: 3.0.0\npaths: [", ":3:1: did not find expected node content"),
        ("a: &a [*a]", ":1:8: the alias *a has no complete anchor above it"),
        ("a: " + "[" * 500 + "]" * 500, ":1:203: found more than 200 levels of nesting"),
        ("{a: b}\n---\n{}", ":2:1: found a second document; allowed is one"),
        ("? [a]\n: b", ":1:5: found a list or mapping as a key"),
        ("", ": found no key openapi; allowed is an OpenAPI 3 document"),
        ("swagger: '2.0'", ": found swagger '2.0'; allowed is an OpenAPI 3 document"),
        ("openapi: 3.0.0\npaths: []", ": paths: found no mapping"),
        ("\x00", ": unacceptable character"),
    ],
)
def test_a_document_that_is_none_is_refused_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "openapi.yaml"
    path.write_text(text)
    with pytest.raises(SourceError) as raised:
        read_openapi(path)
    assert str(raised.value).startswith(f"{path}{why}")


def test_a_document_of_aliases_of_aliases_is_not_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 60)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    before = time.process_time()
    assert len(read_document(path)) == 60
    assert time.process_time() - before < 5.0


def test_too_many_routes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found 5001 paths; allowed are 5000"):
        read_openapi(document(tmp_path, {f"/{number}": {} for number in range(5001)}))
