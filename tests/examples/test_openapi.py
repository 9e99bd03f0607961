"""The OpenAPI documents match the applications: every path, method, status, field and body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
import yaml
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from werkzeug.test import TestResponse

from tests.examples.conftest import SHOP

FOLDER = SHOP / "openapi"
SERVICES = ("users", "products", "monolith")
METHODS = ("get", "post", "put", "delete")
BODIES: dict[str, dict[str, Any]] = {
    "/user": {"username": "ada", "email": "ada@example.com"},
    "/product": {"name": "Thé vert", "price": 4.5},
}


def another(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a body like ``body`` that does not conflict with it."""
    return {**body, "username": name, "email": f"{name}@example.com"} if "email" in body else body


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return document


FILES = {path.name: read(path.name) for path in sorted(FOLDER.glob("*.yaml"))}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, DRAFT202012.create_resource(document)) for name, document in FILES.items()
)


class Received(NamedTuple):
    """A response that came over HTTP, with the attributes of a ``TestResponse``."""

    status_code: int
    headers: Message
    data: bytes

    @property
    def content_type(self) -> str | None:
        return self.headers.get("Content-Type")


class Node:
    """Position in one of the documents; ``$ref`` is resolved."""

    def __init__(self, file: str, pointer: str = "") -> None:
        self.file, self.pointer = file, pointer
        value: Any = FILES[file]
        for step in pointer.split("/")[1:]:
            value = value[unquote(step).replace("~1", "/").replace("~0", "~")]
        self.value = value
        if isinstance(value, dict) and set(value) == {"$ref"}:
            target, _, fragment = value["$ref"].partition("#")
            self.__init__(target or file, fragment)  # type: ignore[misc]

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def __getitem__(self, key: str) -> Node:
        return Node(self.file, f"{self.pointer}/{key.replace('~', '~0').replace('/', '~1')}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.value)

    def check(self, instance: object) -> None:
        """Validate ``instance`` against the schema at this position."""
        pointer = self.pointer.replace("{", "%7B").replace("}", "%7D")
        schema = {"$ref": f"{self.file}#{pointer}"}
        Draft202012Validator(schema, registry=REGISTRY).validate(instance)


def conforms(operation: Node, response: TestResponse | Received, method: str) -> None:
    """Fail unless ``operation`` documents ``response``."""
    responses = operation["responses"]
    status = str(response.status_code)
    assert status in responses or int(status) >= 500, f"{status} is not documented"
    documented = responses[status if status in responses else "default"]
    for name in documented.value.get("headers", ()):
        header = documented["headers"][name]
        value = response.headers.get(name)
        assert value is not None or not header.value.get("required"), f"{name} is missing"
        if value is not None:
            header["schema"].check(value)
    if "content" in documented:
        assert list(documented["content"]) == [response.content_type]
        if method != "head":
            documented["content"][response.content_type or ""]["schema"].check(json.loads(response.data))
    else:
        assert response.data == b""
        assert "Content-Type" not in response.headers or status == "204"


def paths(service: str) -> Node:
    return Node(f"{service}.yaml", "/paths")


@pytest.mark.parametrize("service", SERVICES)
def test_every_reference_leads_somewhere(service: str) -> None:
    found = 0

    def walk(file: str, value: Any) -> None:
        nonlocal found
        if isinstance(value, dict):
            if "$ref" in value:
                target, _, fragment = value["$ref"].partition("#")
                Node(target or file, fragment)
                found += 1
            for inner in value.values():
                walk(file, inner)
        elif isinstance(value, list):
            for inner in value:
                walk(file, inner)

    for file, document in FILES.items():
        walk(file, document)
    assert found > 20
    assert FILES[f"{service}.yaml"]["openapi"].startswith("3.1.")


@pytest.mark.parametrize("file", sorted(FILES))
def test_every_schema_is_one(file: str) -> None:
    for schema in FILES[file]["components"].get("schemas", {}).values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_names_every_route_and_no_other(client_of: Any, service: str) -> None:
    routes = set()
    for rule in client_of(service).application.url_map.iter_rules():
        methods = {method.lower() for method in rule.methods or ()} & set(METHODS)
        routes |= {(re.sub(r"<[^>]+>", "{}", rule.rule), method) for method in methods}
    documented = set()
    for path in paths(service):
        item = paths(service)[path]
        documented |= {(re.sub(r"{[^}]+}", "{}", path), method) for method in item if method in METHODS}
    assert documented == routes


@pytest.mark.parametrize(("service", "path"), [("users", "/user"), ("products", "/product"), ("monolith", "/product")])
def test_answers_are_as_documented(client_of: Any, service: str, path: str) -> None:
    client: FlaskClient = client_of(service)
    body = BODIES[path]
    item_path = f"{path}/{{{path[1:]}_id}}"
    one, many = paths(service)[item_path], paths(service)[path]
    seen: set[tuple[str, str, int]] = set()

    def send(method: str, target: str, **options: Any) -> TestResponse:
        operation = (many if target.partition("?")[0] == path else one)[method]
        response = client.open(target, method=method.upper(), **options)
        conforms(operation, response, method)
        seen.add((operation.pointer, method, response.status_code))
        return response

    many["post"]["requestBody"]["content"]["application/json"]["schema"].check(body)
    created = send("post", path, json=body)
    for n in range(2):
        send("post", path, json=another(body, f"u{n}"))
    location = created.headers["Location"]
    if path == "/user":
        send("post", path, json=body)  # 409
        send("put", "/user/2", json=body)  # 409
    raw = {"content_type": "application/json"}
    for method, target in (("post", path), ("put", location)):
        send(method, target, data="{", **raw)  # 400
        send(method, target, data="x" * 70_000, **raw)  # 413
        send(method, target, data="{}")  # 415
        send(method, target, json={})  # 422
    assert send("get", f"{path}?limit=1").headers["Link"]
    page = send("get", path)
    send("get", path, headers={"If-None-Match": page.headers["ETag"]})  # 304
    send("get", f"{path}?limit=x")  # 422
    read_one = send("get", location)
    send("get", location, headers={"If-None-Match": read_one.headers["ETag"]})  # 304
    send("get", f"{path}/999")  # 404
    send("put", location, json=body)
    send("put", f"{path}/999", json=another(body, "z"))  # 404
    send("delete", location)
    send("delete", location)  # 404

    documented = {
        (item[method].pointer, method, int(status))
        for item in (one, many)
        for method in item
        if method in METHODS
        for status in item[method]["responses"]
        if status != "default"
    }
    assert seen == documented, "every documented answer was seen, and no other"


def test_the_composed_answer_is_as_documented(client_of: Any) -> None:
    client: FlaskClient = client_of("monolith")
    operation = paths("monolith")["/api/{user_id}/{product_id}"]["get"]
    for path, body in BODIES.items():
        client.post(path, json=body)
    whole = client.get("/api/1/1")
    assert whole.status_code == 200
    unchanged = client.get("/api/1/1", headers={"If-None-Match": whole.headers["ETag"]})
    missing = client.get("/api/1/2")
    for response, status in ((whole, 200), (unchanged, 304), (missing, 404)):
        assert response.status_code == status
        conforms(operation, response, "get")


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_as_documented(client_of: Any, service: str) -> None:
    response = client_of(service).get("/healthz")
    assert response.status_code == 200
    conforms(paths(service)["/healthz"]["get"], response, "get")


def test_the_documents_lie_beside_the_shop() -> None:
    assert [Path(name).stem for name in FILES] == ["common", "gateway", "monolith", "products", "users"]
