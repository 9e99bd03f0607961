"""Defaults of routes, and profiles: which value applies, and where it comes from."""

from __future__ import annotations

import pytest

from passerelle.config import Config, inspect_text, load_text
from passerelle.config.models.config import Route
from passerelle.config.models.defaults import Defaults

SERVICES = "services: {user: {targets: ['http://127.0.0.1:5001']}}\n"


def routes_of(text: str, **environ: str) -> tuple[Route, ...]:
    return load_text(SERVICES + text, environ=environ).routes


def test_a_route_has_the_defaults_unless_it_sets_the_key_itself() -> None:
    plain, own = routes_of(
        """\
defaults: {timeout: 5s, compress: [gzip], request_headers: {remove: [Cookie]}, body: 1KiB, rate_limit: {rate: 5/s}}
routes:
  - {path: /a, service: user}
  - {path: /b, service: user, timeout: 1s, request_headers: {set: {X-A: b}}}
"""
    )
    assert (plain.timeout, own.timeout) == (5.0, 1.0)
    assert plain.compress is not None and plain.compress.codings == ("gzip",) and own.compress == plain.compress
    assert plain.request_headers is not None and plain.request_headers.remove == ("Cookie",)
    assert own.request_headers is not None
    assert (own.request_headers.remove, own.request_headers.set) == ((), {"X-A": "b"}), "mappings are not merged"
    assert plain.body == own.body == 1024 and [str(limit.rate) for limit in own.rate_limit] == ["5/s"]


@pytest.mark.parametrize("nothing", ["null", "~", "", "false"])
def test_null_and_false_take_a_default_away(nothing: str) -> None:
    with_default, without = routes_of(
        f"""\
defaults: {{cors: {{origins: '*'}}, timeout: 5s, compress: true, encoded_slashes: keep}}
routes:
  - {{path: /a, service: user}}
  - path: /b
    service: user
    cors: {nothing}
    timeout: {nothing}
    compress: {nothing}
    encoded_slashes: {nothing}
"""
    )
    assert with_default.cors is not None and with_default.compress is not None
    assert (with_default.timeout, with_default.encoded_slashes) == (5.0, "keep")
    assert (without.cors, without.compress, without.timeout, without.encoded_slashes) == (None, None, 30.0, "refuse")
    assert not {"cors", "compress", "timeout", "encoded_slashes"} & without.model_fields_set


def test_false_that_is_a_value_of_a_key_replaces_the_default() -> None:
    first, second = routes_of(
        """\
defaults: {tell_deadline: true, stream_idle_timeout: 5s, tunnel_idle_timeout: 5s}
routes:
  - {path: /a, service: user, tell_deadline: false, stream_idle_timeout: false}
  - {path: /b, service: user, tell_deadline: null, tunnel_idle_timeout: off}
"""
    )
    assert (first.tell_deadline, first.stream_idle_timeout, first.tunnel_idle_timeout) == (False, "off", 5.0)
    assert (second.tell_deadline, second.stream_idle_timeout, second.tunnel_idle_timeout) == (False, 5.0, "off")


def test_a_default_is_left_out_where_the_kind_of_the_route_cannot_have_the_key() -> None:
    text = """\
sessions: {store: s.db, insecure: true}
defaults: {auth: [session], timeout: 5s, stream_idle_timeout: 5s, encoded_slashes: keep, rate_limit: {rate: 5/s}}
routes:
  - {path: /in, login: {service: user, path: /verify}}
  - {path: /out, logout: true}
  - {path: /both, compose: {user: {service: user, path: /a}}}
  - {path: /a, service: user}
"""
    found = [sorted(route.model_fields_set & Defaults.model_fields.keys()) for route in routes_of(text)]
    assert found == [
        ["rate_limit", "timeout"],
        ["rate_limit"],
        ["auth", "rate_limit", "timeout"],
        ["auth", "encoded_slashes", "rate_limit", "stream_idle_timeout", "timeout"],
    ]


def test_the_secret_of_a_default_is_read_and_not_shown() -> None:
    text = """\
defaults: {request_headers: {set: {X-Key: "${KEY}"}}}
routes:
  - {path: /a, service: user}
"""
    (route,) = routes_of(text, KEY="s3")
    assert route.request_headers is not None and route.request_headers.set == {"X-Key": "s3"}
    problems = inspect_text(SERVICES + text, environ={}).errors
    assert [str(problem).partition(": the env")[0] for problem in problems] == [
        "gateway.yaml:2:44: defaults.request_headers.set.X-Key"
    ]


def test_every_key_of_the_defaults_is_one_of_a_route_with_the_same_type() -> None:
    for key, field in Defaults.model_fields.items():
        own = Route.model_fields[key]
        assert (own.annotation, own.default, own.description) == (field.annotation, field.default, field.description)


PROFILES = """\
access_log: access.log
defaults: {timeout: 5s}
routes:
  - {path: /a, service: user}
profiles:
  development:
    access_log: off
    services:
      user: {targets: null, app: "users:app"}
      more: {targets: ["http://127.0.0.1:5002"]}
    routes:
      - {path: /debug, service: more}
  production:
    defaults: {timeout: 2s, compress: true}
    access_log: null
  other: {tls: {certificate: "${NOT_SET}", key: nowhere.pem}}
"""


def profile(name: str) -> Config:
    return load_text(SERVICES + PROFILES, environ={"PASSERELLE_PROFILE": name})


def test_the_environment_names_the_profile_that_applies() -> None:
    for none in (profile(""), load_text(SERVICES + PROFILES, environ={})):
        assert str(none.access_log) == "access.log" and none.services["user"].app is None
        assert (none.routes[0].timeout, len(none.routes), none.origins.profile) == (5.0, 1, None)
    development = profile("development")
    assert development.access_log == "off" and development.services["user"].source == "app"
    assert [route.path for route in development.routes] == ["/a", "/debug"]
    assert [route.timeout for route in development.routes] == [5.0, 5.0], "defaults apply to routes of a profile"
    assert development.origins.routes == {0: "gateway.yaml:5", 1: "gateway.yaml:13"}
    production = profile("production")
    assert production.access_log == "stdout" and production.services["user"].source == "targets"
    assert production.routes[0].timeout == 2.0 and production.routes[0].compress is not None
    assert production.origins.defaults == {0: {"timeout": "gateway.yaml:15", "compress": "gateway.yaml:15"}}


def test_an_unknown_profile_is_an_error_only_where_the_file_has_profiles() -> None:
    report = inspect_text(SERVICES + PROFILES, environ={"PASSERELLE_PROFILE": "prodction"})
    assert list(map(str, report.errors)) == [
        "gateway.yaml:6:1: profiles: PASSERELLE_PROFILE is 'prodction'; allowed: development, production, other; "
        "did you mean production?"
    ]
    assert routes_of("routes: [{path: /a, service: user}]", PASSERELLE_PROFILE="any")


def test_the_errors_of_the_profile_that_applies_have_their_place() -> None:
    text = SERVICES + PROFILES.replace("timeout: 2s, compress: true", "timeout: 2s, compress: maybe")
    assert inspect_text(text, environ={}).errors == ()
    (error,) = inspect_text(text, environ={"PASSERELLE_PROFILE": "production"}).errors
    assert str(error).startswith("gateway.yaml:15:39: defaults.compress: found 'maybe'")


def test_aliases_are_not_changed_by_defaults_or_profiles() -> None:
    """A node that is shared by an alias must not get what only one of its places has."""
    first, second = routes_of(
        """\
defaults: &shared {timeout: 5s}
profiles: {a: {defaults: {timeout: 1s}, limits: {body: 1KiB}}}
routes:
  - &one {path: /a, service: user}
  - {path: /b, service: user, timeout: 3s}
""",
        PASSERELLE_PROFILE="a",
    )
    assert (first.timeout, second.timeout) == (1.0, 3.0)
