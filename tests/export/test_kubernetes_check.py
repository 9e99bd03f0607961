"""The check of manifests is strict, needs no network, and agrees with another validator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from passerelle.export import kubernetes_check
from passerelle.export.json_schema import problems
from tests.export.serving import deployment_of, in_kubernetes

SERVICES = {
    "user": {"app": "a:b", "instances": {"min": 2, "max": 3}, "health": {"path": "/h", "headers": {"X-A": "b"}}},
    "u": {"app": "a:b"},
}
ROUTES = [{"path": "/a", "service": "user"}, {"path": "/b", "service": "u"}]
TLS = {"certificate": "c.pem", "key": "k.pem"}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    options: dict[str, Any] = {"namespace": "shop", "backup": "@daily", "migrations": {"u": ("migrate",)}}
    backup = {"databases": {"users": "postgresql://u@10.0.0.3/users"}}
    deployment = deployment_of(SERVICES, ROUTES, tls=TLS, backup=backup)
    found = in_kubernetes(deployment, **options)[0]
    ingress = in_kubernetes(deployment, ingress="nginx", **options)[0]["base/route.yaml"]
    return found | {"base/ingress.yaml": ingress}


@pytest.fixture(scope="module")
def resources(files: dict[str, str]) -> list[dict[str, Any]]:
    return [each for text in files.values() for each in yaml.load_all(text, Loader=yaml.CSafeLoader)]


def test_every_kind_that_has_a_schema_is_exported_and_accepted(resources: list[dict[str, Any]]) -> None:
    kinds = {f"{resource['apiVersion']} {resource['kind']}" for resource in resources}
    assert kinds == set(kubernetes_check.schemas()["kinds"])
    for resource in resources:
        assert list(kubernetes_check.resource_problems(resource)) == []


def test_an_unknown_kind_is_refused() -> None:
    for api, kind in (("v1", "Pod"), ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"), (None, None)):
        (problem,) = kubernetes_check.resource_problems({"apiVersion": api, "kind": kind, "metadata": {"name": "a"}})
        assert problem == f"there is no schema of {api} {kind}"
    assert list(kubernetes_check.resource_problems([])) == ["found no resource"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def changed(resource: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    result = copy.deepcopy(resource)
    if not path:
        return change(result)
    owner = result
    for step in path[:-1]:
        owner = owner[step]
    owner[path[-1]] = change(owner[path[-1]])
    return result


# Mappings with any keys. All others have known ones.
FREE = {"labels", "annotations", "matchLabels", "selector", "requests", "limits", "data"}


def test_an_unknown_key_is_refused_wherever_it_is(resources: list[dict[str, Any]]) -> None:
    seen = 0
    for resource in resources:
        for path in places(resource):
            owner: Any = resource
            for step in path:
                owner = owner[step]
            if isinstance(owner, dict) and not (path and path[-1] in FREE and "matchLabels" not in owner):
                wrong = changed(resource, path, lambda value: value | {"unknownKey": 1})
                assert any("unknownKey: unknown key" in each for each in kubernetes_check.resource_problems(wrong)), (
                    path
                )
                seen += 1
    assert seen > 300


@given(st.data())
def test_it_agrees_with_another_validator(resources: list[dict[str, Any]], data: st.DataObject) -> None:
    resource = data.draw(st.sampled_from(resources))
    path = data.draw(st.sampled_from(places(resource)))
    value = data.draw(st.sampled_from([None, True, -1, 7, 1.5, "", "x", "Ü", [], ["x"], {}, {"name": "x"}, "y" * 300]))
    wrong = changed(resource, path, lambda _: value)
    known = kubernetes_check.schemas()
    schema = known["kinds"][f"{resource['apiVersion']} {resource['kind']}"] | {"$defs": known["$defs"]}
    expected = jsonschema.Draft7Validator(_inlined(schema)).is_valid(wrong)
    assert (not list(problems(wrong, schema, known["$defs"]))) == expected


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "$ref"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("targetPort: http", "targetPort: other", "Service gateway: no pod has the port other"),
        (
            "matchLabels:\n      app.kubernetes.io/name: user",
            "matchLabels:\n      x: y",
            "Deployment user selects nothing",
        ),
        ("kind: HTTPRoute", "kind: TCPRoute", "there is no schema of gateway.networking.k8s.io/v1 TCPRoute"),
        ("service-u.yaml", "service-x.yaml", "resources: there is no service-x.yaml"),
    ],
)
def test_what_does_not_exist_is_reported(files: dict[str, str], old: str, new: str, problem: str) -> None:
    wrong = {name: text.replace(old, new, 1) for name, text in files.items() if name != "base/ingress.yaml"}
    assert any(problem in each for each in kubernetes_check.problems(wrong))
    right = {name: text for name, text in files.items() if name != "base/ingress.yaml"}
    assert list(kubernetes_check.problems(right)) == []


def test_overlays_can_be_built_if_kubectl_is_installed(files: dict[str, str]) -> None:
    found = kubernetes_check.kustomize_problems(files)
    assert found is None or list(found) == []
    broken = files | {"overlays/staging/kustomization.yaml": "resources: [../../gone]\n"}
    found = kubernetes_check.kustomize_problems(broken)
    assert found is None or len(list(found)) == 1
