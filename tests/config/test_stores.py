"""Where credentials are kept, and what Redis needs."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from passerelle.config import check_guards, inspect_text, load_text

SERVICES = "services: {u: {targets: ['http://127.0.0.1:1']}}\n"
ROUTE = "routes: [{path: /, service: u, auth: [key, session]}, {path: /in, login: {service: u, path: /verify}}]\n"
REDIS = "redis: redis://127.0.0.1:6379/0\n"


@pytest.mark.parametrize(
    ("blocks", "keys", "sessions"),
    [
        (REDIS + "keys: {}\nsessions: {}\n", "redis", "redis"),
        (REDIS + "keys: {store: redis}\nsessions: {store: redis}\n", "redis", "redis"),
        # Who has files and adds a Redis goes on with them.
        (REDIS + "keys: {store: k.db}\nsessions: {store: s.db}\n", Path("dir/k.db"), Path("dir/s.db")),
        (REDIS + "keys: {store: k.db}\nsessions: {}\n", Path("dir/k.db"), "redis"),
        (REDIS + "keys: {store: ./redis}\nsessions: {}\n", Path("dir/redis"), "redis"),
        ("keys: {store: k.db}\nsessions: {store: s.db}\n", Path("dir/k.db"), Path("dir/s.db")),
    ],
)
def test_where_they_are_kept(blocks: str, keys: object, sessions: object) -> None:
    text = blocks + SERVICES + ROUTE
    config = load_text(text, folder="dir", environ={})
    assert config.keys is not None and config.sessions is not None
    assert (config.keys.store, config.sessions.store) == (keys, sessions)
    assert inspect_text(text, environ={}).warnings == ()


@pytest.mark.parametrize("missing", [("redis",), ("hiredis",), ("redis", "hiredis")])
def test_packages_that_are_missing_are_found_where_redis_stands(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name in missing else find_spec(name)

    monkeypatch.setattr(check_guards, "find_spec", find)
    text = "workers: 2\n" + REDIS + SERVICES + "routes: [{path: /, service: u, cache: {}}]\n"
    report = inspect_text(text, environ={})
    assert [str(problem) for problem in report.errors] == [
        f"gateway.yaml:2:1: redis: redis needs {' and '.join(missing)}: pip install 'passerelle[redis]'"
    ]
    assert inspect_text(text.replace(REDIS, ""), environ={}).errors == ()
