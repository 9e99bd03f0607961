"""Stores of credentials, and the packages that Redis needs."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from passerelle.config import inspect_text, load_text
from passerelle.config.checks import guards as check_guards

SERVICES = "services: {u: {targets: ['http://127.0.0.1:1']}}\n"
ROUTE = "routes: [{path: /, service: u, auth: [key, session]}, {path: /in, login: {service: u, path: /verify}}]\n"
REDIS = "redis: redis://127.0.0.1:6379/0\n"


@pytest.mark.parametrize(
    ("blocks", "keys", "sessions"),
    [
        (REDIS + "keys: {}\nsessions: {}\n", "redis", "redis"),
        (REDIS + "keys: {store: redis}\nsessions: {store: redis}\n", "redis", "redis"),
        # Files stay in use when a Redis is added.
        (REDIS + "keys: {store: k.db}\nsessions: {store: s.db}\n", Path("k.db"), Path("s.db")),
        (REDIS + "keys: {store: k.db}\nsessions: {}\n", Path("k.db"), "redis"),
        (REDIS + "keys: {store: ./redis}\nsessions: {}\n", Path("redis"), "redis"),
        ("keys: {store: k.db}\nsessions: {store: s.db}\n", Path("k.db"), Path("s.db")),
        ("redis: off\nkeys: {store: k.db}\nsessions: {store: s.db}\n", Path("k.db"), Path("s.db")),
        ("redis: ${REDIS:-off}\nkeys: {store: k.db}\nsessions: {store: s.db}\n", Path("k.db"), Path("s.db")),
    ],
)
def test_where_credentials_are_stored(tmp_path: Path, blocks: str, keys: object, sessions: object) -> None:
    text = blocks + SERVICES + ROUTE
    config = load_text(text, folder=tmp_path, environ={})
    assert config.keys is not None and config.sessions is not None
    stores = [tmp_path / each if isinstance(each, Path) else each for each in (keys, sessions)]
    assert [config.keys.store, config.sessions.store] == stores
    assert not list(tmp_path.iterdir())
    assert inspect_text(text, environ={}).warnings == ()


@pytest.mark.parametrize("missing", [("redis",), ("hiredis",), ("redis", "hiredis")])
def test_missing_packages_are_reported_at_redis(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name in missing else find_spec(name)

    monkeypatch.setattr(check_guards, "find_spec", find)
    text = "workers: 2\n" + REDIS + SERVICES + "routes: [{path: /, service: u, cache: {}}]\n"
    report = inspect_text(text, environ={})
    assert [str(problem) for problem in report.errors] == [
        f"gateway.yaml:2:1: redis: redis needs {' and '.join(missing)}: pip install 'passerelle[redis]'"
    ]
    assert inspect_text(text.replace(REDIS, ""), environ={}).errors == ()


def test_off_is_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_guards, "find_spec", lambda name: None)
    text = "redis: off\n" + SERVICES + "routes: [{path: /, service: u, cache: {}}]\n"
    assert load_text(text, environ={}).redis is None
    report = inspect_text("redis: off\nkeys: {store: redis}\n" + SERVICES + ROUTE, environ={})
    assert "gateway.yaml:2:15: keys.store: found redis; it needs redis: at the top level of the file" in map(
        str, report.errors
    )
