"""Routes that keep encoded slashes: what `check` refuses, and where it warns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config import ConfigError, load_text
from passerelle.config.checks import warnings
from passerelle.config.checks.slashes import _overlap

KEY = {"auth": ["key"]}
KEEP = {"encoded_slashes": "keep"}


def text(*routes: dict[str, Any]) -> str:
    services = {name: {"targets": ["http://127.0.0.1:5001"]} for name in ("u", "other")}
    whole = [{"service": "u", **route} for route in routes]
    for route in whole:
        if "compose" in route or "login" in route:
            del route["service"]
    unused = [{"path": "/other", "service": "other"}]
    blocks = {"keys": {"store": "k.db"}, "sessions": {"store": "s.db"}}
    return json.dumps({**blocks, "services": services, "routes": [*whole, *unused]})


def warned(*routes: dict[str, Any]) -> list[str]:
    found = warnings(load_text(text(*routes)))
    return [finding.message for finding in found if finding.loc[-1] == "encoded_slashes"]


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ({"path": "/user/{id}", "rewrite": "/internal/{id}", **KEEP}, "found {id} together with encoded_slashes: keep"),
        ({"path": "/a%2Fb"}, "a path with %2F needs encoded_slashes: keep"),
        ({"path": "/a", "compose": {"x": {"service": "u", "path": "/"}}, **KEEP}, "allowed with service only"),
        ({"path": "/a", "login": {"service": "u", "path": "/v"}, **KEEP}, "found together with login"),
        ({"path": "/a", "encoded_slashes": "decode"}, "encoded_slashes"),
    ],
)
def test_what_cannot_work_is_refused(route: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as failed:
        load_text(text(route))
    assert said in str(failed.value)


@pytest.mark.parametrize(
    "route",
    [
        {"path": "/files/{name*}", "rewrite": "/v2/{name}", **KEEP},
        {"path": "/user/{id}", "rewrite": "/fixed", **KEEP},
        {"path": "/user/{id}", **KEEP},
        {"path": "/a%2Fb", **KEEP},
    ],
)
def test_what_can_work_is_accepted(route: dict[str, Any]) -> None:
    load_text(text(route))


@pytest.mark.parametrize(
    ("kept", "guarded"),
    [
        ({"path": "/{rest*}"}, {"path": "/admin/{rest*}", **KEY}),
        ({"path": "/{page}"}, {"path": "/admin/{rest*}", **KEY}),
        ({"path": "/{page}"}, {"path": "/admin/secret", **KEY}),
        ({"path": "/user/{id}"}, {"path": "/user/{id}/delete", **KEY}),
        ({"path": "/user/{id}"}, {"path": "/user/{id}/delete", "clients": {"deny": ["10.0.0.0/8"]}}),
        ({"path": "/user/{id}/x"}, {"path": "/user/{a}/{b}/x", **KEY}),
        ({"path": "/a%2Fb"}, {"path": "/a/b", **KEY}),
        ({"path": "/pub/{r*}", "rewrite": "/in/{r}"}, {"path": "/x/{id}", "rewrite": "/in/{id}/y", **KEY}),
        ({"path": "/{page}", "methods": ["GET"]}, {"path": "/admin/x", "methods": ["GET", "PUT"], **KEY}),
        ({"path": "/{page}", "auth": ["session"]}, {"path": "/admin/x", **KEY}),
        ({"path": "/{page}"}, {"path": "/c/{id}", "compose": {"x": {"service": "u", "path": "/in/{id}"}}, **KEY}),
    ],
)
def test_a_route_that_would_open_a_guarded_one_is_warned_of(kept: dict[str, Any], guarded: dict[str, Any]) -> None:
    (message,) = warned({**kept, **KEEP}, guarded)
    assert message.startswith("a service that decodes %2F gives clients what is guarded by the route ")
    if "%2F" not in kept["path"]:
        assert warned(kept, guarded) == []


@pytest.mark.parametrize(
    ("kept", "other"),
    [
        ({"path": "/files/{name*}"}, {"path": "/admin/{rest*}", **KEY}),
        ({"path": "/user/{id}"}, {"path": "/user", **KEY}),
        ({"path": "/{page}"}, {"path": "/admin/x"}),
        ({"path": "/{page}"}, {"path": "/admin/x", "service": "other", **KEY}),
        ({"path": "/{page}", **KEY}, {"path": "/admin/x", **KEY}),
        ({"path": "/{page}", "methods": ["GET"]}, {"path": "/admin/x", "methods": ["POST"], **KEY}),
        ({"path": "/{page}", "rewrite": "/fixed"}, {"path": "/admin/x", **KEY}),
        ({"path": "/x/{page}"}, {"path": "/x/a/b", "rewrite": "/y", **KEY}),
    ],
)
def test_a_route_that_opens_nothing_is_not(kept: dict[str, Any], other: dict[str, Any]) -> None:
    assert warned({**kept, **KEEP}, other) == []


def test_a_route_that_reaches_the_passwords_is_warned_of() -> None:
    login = {"path": "/login", "login": {"service": "u", "path": "/internal/verify"}}
    assert warned({"path": "/{page}", **KEEP}, login) == [
        "a service that decodes %2F gives clients the passwords of the route /login too"
    ]
    assert warned({"path": "/{page}"}, login) == []


segments = st.lists(st.sampled_from(["a", "b", "{}", "{*}"]), max_size=5)
examples = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


def fits(form: list[str], path: list[str]) -> bool:
    if not form:
        return not path
    if form[0] == "{*}":
        return any(fits(form[1:], path[index:]) for index in range(len(path) + 1))
    return bool(path) and form[0] in ("{}", path[0]) and fits(form[1:], path[1:])


@given(segments, segments, examples)
def test_two_forms_overlap_if_any_path_has_both(one: list[str], other: list[str], path: list[str]) -> None:
    if fits(one, path) and fits(other, path):
        assert _overlap(tuple(one), tuple(other))


@given(segments, examples)
def test_a_form_overlaps_a_path_only_if_the_path_has_it(form: list[str], path: list[str]) -> None:
    assert _overlap(tuple(form), tuple(path)) == fits(form, path) == _overlap(tuple(path), tuple(form))
