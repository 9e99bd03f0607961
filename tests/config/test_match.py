"""Warnings about routes with the same host and path, and the models of conditions."""

from __future__ import annotations

import pytest

from passerelle.config import inspect_text, load_text
from passerelle.config.schema import json_schema

SERVICES = "services: {u: {targets: ['http://127.0.0.1:1']}}\nroutes:\n"
A1, B1 = '{headers: {X-A: "1"}}', '{headers: {X-A: "1"}, cookies: {b: "1"}}'


def warned(*routes: str) -> list[str]:
    text = SERVICES + "".join(f"  - {{service: u, path: /a, {keys}}}\n" for keys in routes)
    report = inspect_text(text)
    assert not report.errors
    return [f"{problem.key}: {problem.message}" for problem in report.warnings]


@pytest.mark.parametrize(
    "routes",
    [
        (f"match: {A1}", ""),
        (f"match: {A1}", f"match: {B1}", ""),
        (f"match: {A1}, methods: GET, priority: 1", f"match: {B1}"),
        ("priority: 1, methods: GET", f"match: {A1}"),
        ("priority: 1, host: [a.example, b.example]", f"match: {A1}, host: [a.example, c.example]"),
        ("match: {headers: {X-A: {not: '1'}}}, priority: 1", f"match: {A1}"),
        ("match: {query: {a: {prefix: x}}}, priority: 1", "match: {query: {a: {prefix: [xy, z]}}}"),
    ],
)
def test_routes_that_can_be_reached(routes: tuple[str, ...]) -> None:
    assert warned(*routes) == []


@pytest.mark.parametrize(
    "routes",
    [
        ("priority: 1", f"match: {A1}"),
        (f"match: {A1}, priority: 1", f"match: {B1}"),
        ("priority: 1", f"match: {A1}, methods: [GET, PUT]"),
        ("match: {query: {a: {prefix: x}}}, priority: 1", "match: {query: {a: {prefix: [xy, xz]}}}"),
        ("match: {query: {a: {not: {prefix: x}}}}, priority: 1", "match: {query: {a: {is: [y, z]}}}"),
        ("match: {clients: 10.0.0.0/8}, priority: 1", "match: {clients: [10.1.0.0/16, 10.2.0.0/16]}"),
        ("match: {cookies: {a: {present: true}}}, priority: 1", "match: {cookies: {a: {pattern: x+}}}"),
    ],
)
def test_routes_that_no_request_reaches(routes: tuple[str, ...]) -> None:
    expected = "routes[1].path: no request reaches the route: routes[0] comes first, and takes them all"
    assert warned(*routes) == [expected]


def test_priorities_without_an_effect_and_cors_of_other_routes() -> None:
    assert warned("priority: 1") == ["routes[0].priority: without an effect: no other route has the same host and path"]
    (message,) = warned("cors: {origins: '*'}", f"match: {A1}")
    assert message == (
        "routes[1].path: cors differs from cors of routes[0]; a preflight has no cookies and no values of fields"
    )


KEYS = "keys: {store: keys.db}\n"
PLUGINS = "plugins: {g: {guard: 'tests.plugin_host.samples:by_header'}}\n"
IN = f"match: {A1}, auth: [key]"


def warned_of(*routes: str) -> list[str]:
    report = inspect_text(KEYS + PLUGINS + SERVICES + "".join(f"  - {{path: /a, {keys}}}\n" for keys in routes))
    assert not report.errors
    return [f"{problem.key}: {problem.message}" for problem in report.warnings if "auth" in problem.message]


@pytest.mark.parametrize(
    "fallback",
    [
        "service: u",
        "service: u, match: {cookies: {b: '1'}}, priority: -1",
        "static: /srv",
        "compose: {a: {service: u, path: /}}",
    ],
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_request_that_lacks_the_condition_of_a_protected_route_and_meets_an_open_one(
    fallback: str, order: tuple[int, int]
) -> None:
    routes = f"service: u, {IN}", fallback
    message = f"routes[{order[1]}].path: has no auth, and takes the requests that lack the conditions of "
    assert warned_of(*(routes[place] for place in order)) == [f"{message}routes[{order[0]}], which has auth"]


@pytest.mark.parametrize(
    "routes",
    [
        (f"service: u, {IN}", "service: u, auth: [key]"),
        (f"service: u, {IN}", "service: u, forward_auth: {service: u, path: /}"),
        (f"service: u, {IN}", "service: u, plugins: [g]"),
        (f"service: u, {IN}", "respond: 401"),
        (f"service: u, {IN}", "redirect: /login"),
        (f"service: u, {IN}, methods: PUT", "service: u, methods: GET"),
        (f"service: u, {IN}", "service: u, match: {headers: {X-A: '2'}}"),
        ("service: u, match: {clients: 10.0.0.0/8}", "service: u, auth: [key]"),
        ("service: u, auth: [key]", f"service: u, match: {A1}"),
    ],
)
def test_routes_of_one_path_that_no_missing_condition_opens(routes: tuple[str, str]) -> None:
    assert warned_of(*routes) == []


def test_labels_are_stable_and_have_no_values() -> None:
    headers = ("headers: {X-Key: s3cret, X-B: ['1', '2']}", "headers: {X-B: ['2', '1'], X-Key: s3cret}")
    matches = (f"{headers[0]}, query: {{a/b: c}}", f"query: {{a/b: c}}, {headers[1]}")
    configs = [load_text(f"{SERVICES}  - {{service: u, path: /a, match: {{{match}}}}}\n") for match in matches]
    (one,), (two,) = (config.routes for config in configs)
    assert one.label == two.label == "/a[header:x-b,header:x-key,query:a%2Fb~" + one.label[-9:]
    assert "s3cret" not in one.label


def test_the_schema_has_the_conditions() -> None:
    assert {"headers", "query", "cookies", "clients", "content_type", "path"} == set(
        json_schema()["$defs"]["Match"]["properties"]
    )
