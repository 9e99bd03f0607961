"""Services with versions: each version becomes a service, and each route to the service a split."""

from __future__ import annotations

import pickle

from passerelle.config.loader import inspect_text, load_text
from passerelle.config.models.config import Config, VersionPair
from passerelle.config.models.split import SplitBy

TEXT = """
services:
  users:
    versions:
      v1: {app: "one:app", instances: 2, env: {A: 1.10}}
      v2: {targets: ['http://127.0.0.1:2']}
    health: {path: /health}
    split_by: cookie:session
    rollout: {steps: [100%]}
  other: {targets: ['http://127.0.0.1:3']}
routes:
  - {path: /a, service: users}
  - {path: /b, compose: {x: {service: users, path: /x}, y: {service: other, path: /y}}}
  - {path: /c, service: other, shadow: {service: users}}
"""


def config(text: str = TEXT) -> Config:
    found = inspect_text(text, "gateway.yaml", {}, elsewhere=True)
    assert found.config is not None, found.errors
    return found.config


def test_each_version_is_a_service_with_the_keys_of_both() -> None:
    services = config().services
    assert list(services) == ["users-v1", "users-v2", "other"]
    assert (services["users-v1"].app, services["users-v1"].instances.min) == ("one:app", 2)
    assert services["users-v1"].env == {"A": "1.10"}
    assert (services["users-v2"].source, services["users-v2"].is_local) == ("targets", False)
    for name in ("users-v1", "users-v2"):
        assert services[name].health is not None and services[name].health.path == "/health"
        assert services[name].versions is services[name].rollout is None


def test_routes_and_parts_split_the_same_users() -> None:
    found = config()
    assert found.splits == {"/a": {"users-v1": 1000, "users-v2": 0}, "/b#x": {"users-v1": 1000, "users-v2": 0}}
    splits = [split for route in found.routes for _, split in route.splits.values()]
    assert {(split.salt, split.by) for split in splits} == {("users", SplitBy("cookie", "session"))}
    assert found.routes[2].shadow is not None and found.routes[2].shadow.service == "users-v1"
    pair = found.versions["users"]
    assert pair == VersionPair("users-v1", "users-v2", pair.rollout, ("/a", "/b#x"))
    assert list(found.rollouts) == ["users"]


def test_the_pairs_are_kept_where_a_configuration_is_copied_or_sent() -> None:
    found = config()
    assert found.model_copy(update={"workers": 2}).versions == found.versions
    assert pickle.loads(pickle.dumps(found)).versions == found.versions


def test_one_version_is_no_split() -> None:
    found = load_text("""
services: {users: {versions: {v2: {targets: ['http://127.0.0.1:2']}}}}
routes: [{path: /a, service: users}]
""")
    assert (list(found.services), found.splits, found.rollouts) == (["users-v2"], {}, {})
    assert found.routes[0].service == "users-v2"


def test_a_configuration_without_versions_is_the_same_object() -> None:
    from passerelle.config.versions import with_versions

    found = load_text("{services: {s: {targets: ['http://127.0.0.1:2']}}, routes: [{path: /a, service: s}]}")
    assert with_versions(found) is found
