"""Every key of the configuration is exported, listed as a loss, or does not concern the target; and exports have it."""

from __future__ import annotations

import json
import os
import typing
from pathlib import Path
from typing import Any

import pytest

from passerelle.config.models.base import Model
from passerelle.config.models.config import Config
from passerelle.export import (
    compose_coverage,
    haproxy,
    kubernetes_coverage,
    nginx_coverage,
    pipeline,
    prometheus_rules,
    systemd,
)
from passerelle.export.config_tree import values_of
from passerelle.export.coverage import Coverage, Exported, Lost
from tests.export.serving import deployed, in_front, in_place

TARGETS = {
    "compose": compose_coverage.COVERAGE,
    "nginx in front": nginx_coverage.IN_FRONT,
    "nginx in place": nginx_coverage.IN_PLACE,
    "haproxy": haproxy.COVERAGE,
    "kubernetes": kubernetes_coverage.COVERAGE,
    "pipelines": pipeline.COVERAGE,
    "prometheus rules": prometheus_rules.COVERAGE,
    "systemd": systemd.COVERAGE,
}


def models() -> set[type[Model]]:
    """Return all models of the file."""
    found: set[type[Model]] = set()

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, Model) and kind not in found:
            found.add(kind)
            for field in kind.model_fields.values():
                visit(field.annotation)
        for inner in typing.get_args(kind):
            visit(inner)

    visit(Config)
    return found


KEYS = {(model, key) for model in models() for key in model.model_fields}


@pytest.mark.parametrize("name", TARGETS)
def test_every_key_of_the_schema_is_covered_and_no_other(name: str) -> None:
    coverage: Coverage = TARGETS[name]
    for model, key in KEYS:
        coverage.of(model, key)
    assert set(coverage.keys) <= {f"{model.__name__}.{key}" for model, key in KEYS}


SERVICE = {"targets": ["http://127.0.0.1:5000", "http://127.0.0.1:5001"]}
TLS = {"certificate": "c.pem", "key": "k.pem"}
HTTPS = {"targets": ["https://127.0.0.1:5000"]}
ZONE = {"targets": ["http://127.0.0.1:5000"]}

# For each exported key, two files that differ in it: (top level, service, route) of each.
Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def top(**keys: Any) -> Parts:
    return keys, {}, {}


def service(**keys: Any) -> Parts:
    return {}, keys, {}


def route(**keys: Any) -> Parts:
    return {}, {}, keys


def redirect(**keys: Any) -> Parts:
    return route(service=None, redirect={"path": "/new", **keys})


def respond(**keys: Any) -> Parts:
    return route(service=None, respond=keys)


def static(**keys: Any) -> Parts:
    return route(service=None, path="/{rest*}", static={"folder": "/srv", **keys})


def cache(**keys: Any) -> Parts:
    return route(cache={"ttl": "60s", **keys})


def limits(**keys: Any) -> Parts:
    return top(limits=keys)


def tls(**keys: Any) -> Parts:
    return top(tls={**TLS, **keys})


def of_service(**keys: Any) -> Parts:
    return service(**HTTPS, tls=keys)


PAIRS: dict[str, tuple[Parts, Parts]] = {
    "Config.access_log": (top(access_log="off"), top(access_log="a.log")),
    "Config.access_log_format": (top(), top(access_log_format="combined")),
    "Config.group": (top(user="daemon"), top(user="daemon", group="bin")),
    "Config.user": (top(), top(user="daemon")),
    "Route.log": (route(), route(log="off")),
    "Config.cache": (cache(), ({"cache": {"memory": "1MiB"}}, {}, {"cache": {"ttl": "60s"}})),
    "Listener.tls": (tls(), top(tls=TLS, listen={"address": "127.0.0.1:8080", "tls": False})),
    "Config.errors": (top(), top(errors={"404": "404.html"})),
    "Config.limits": (top(), limits(body="1MiB")),
    "Config.request_id_in_responses": (top(), top(request_id_in_responses=True)),
    "Config.routes": (route(), route(path="/other")),
    "Config.security_headers": (top(), top(security_headers=True)),
    "Config.services": (service(), service(targets=["http://127.0.0.1:5002"])),
    "Config.tls": (top(), tls()),
    "Config.trusted_proxies": (top(), top(trusted_proxies=["10.0.0.0/8"])),
    "Config.workers": (top(), top(workers=2)),
    "Balance.by": (
        service(balance={"policy": "hash", "by": "address"}),
        service(balance={"policy": "hash", "by": "header:X-A"}),
    ),
    "Balance.policy": (service(), service(balance="least_inflight")),
    "Cache.memory": (cache(), ({"cache": {"memory": "1MiB"}}, {}, {"cache": {"ttl": "60s"}})),
    "Clients.allow": (route(), route(clients={"allow": ["10.0.0.0/8"]})),
    "Clients.deny": (route(), route(clients={"deny": ["10.0.0.0/8"]})),
    "Compress.codings": (route(compress=["br"]), route(compress=["gzip"])),
    "Compress.min_size": (route(compress=True), route(compress={"min_size": "1KiB"})),
    "Compress.types": (route(compress=True), route(compress={"types": ["text/css"]})),
    "Eject.failures": (service(), service(eject={"failures": 2})),
    "Eject.time": (service(), service(eject={"time": "2s"})),
    "Instances.min": (service(app="a:b"), service(app="a:b", instances={"min": 2, "max": 2})),
    "Limits.body": (top(), limits(body="unlimited")),
    "Limits.body_timeout": (top(), limits(body_timeout="7s")),
    "Limits.connections": (top(), limits(connections=7)),
    "Limits.connections_per_address": (top(), limits(connections_per_address=7)),
    "Limits.head": (top(), limits(head="8KiB")),
    "Limits.head_timeout": (top(), limits(head_timeout="7s")),
    "Limits.idle_timeout": (top(), limits(idle_timeout="7s")),
    "Limits.write_timeout": (top(), limits(write_timeout="7s")),
    "ListenerTls.certificate": (tls(), tls(certificate="other.pem")),
    "ListenerTls.client": (tls(client_ca="ca.pem"), tls(client_ca="ca.pem", client="optional")),
    "ListenerTls.client_ca": (tls(), tls(client_ca="ca.pem")),
    "ListenerTls.key": (tls(), tls(key="other.pem")),
    "ListenerTls.ciphers": (tls(), tls(ciphers=["ECDHE-RSA-AES128-GCM-SHA256"])),
    "ListenerTls.curve": (tls(), tls(curve="X25519")),
    "ListenerTls.minimum": (tls(), tls(minimum="1.3")),
    "RateLimit.burst": (route(rate_limit={"rate": "3/m"}), route(rate_limit={"rate": "3/m", "burst": 1})),
    "RateLimit.by": (route(rate_limit={"rate": "3/m"}), route(rate_limit={"rate": "3/m", "by": "header:X-A"})),
    "RateLimit.dry_run": (route(rate_limit={"rate": "3/m"}), route(rate_limit={"rate": "3/m", "dry_run": True})),
    "RateLimit.rate": (route(rate_limit={"rate": "3/m"}), route(rate_limit={"rate": "180/h", "burst": 4})),
    "Redirect.host": (redirect(), redirect(host="a.example")),
    "Redirect.path": (redirect(), redirect(path="/newer")),
    "Redirect.query": (redirect(), redirect(query="drop")),
    "Redirect.scheme": (redirect(), redirect(scheme="https")),
    "Redirect.status": (redirect(), redirect(status=308)),
    "Redirect.www": (redirect(), redirect(www="add")),
    "RequestHeaders.remove": (route(), route(request_headers={"remove": ["X-A"]})),
    "RequestHeaders.set": (route(), route(request_headers={"set": {"X-A": "1"}})),
    "Respond.body": (respond(), respond(body="a")),
    "Respond.headers": (respond(), respond(headers={"X-A": "1"})),
    "Respond.status": (respond(), respond(status=404)),
    "ResponseHeaders.add": (route(), route(response_headers={"add": {"X-A": "1"}})),
    "ResponseHeaders.default": (route(), route(response_headers={"default": {"X-A": "1"}})),
    "ResponseHeaders.remove": (route(), route(response_headers={"remove": ["X-A"]})),
    "ResponseHeaders.set": (route(), route(response_headers={"set": {"X-A": "1"}})),
    "Retries.on_status": (service(), service(retries={"on_status": [503]})),
    "Route.attempt_timeout": (route(), route(attempt_timeout="3s")),
    "Route.attempts": (route(), route(attempts=1)),
    "Route.body": (route(), route(body="3B")),
    "Route.cache": (route(), cache()),
    "Route.clients": (route(), route(clients={"deny": ["10.0.0.0/8"]})),
    "Route.compress": (route(), route(compress=True)),
    "Route.host": (route(), route(host="a.example")),
    "Route.methods": (route(), route(methods=["PUT"])),
    "Route.path": (route(), route(path="/other")),
    "Route.rate_limit": (route(), route(rate_limit={"rate": "3/m"})),
    "Route.redirect": (route(), redirect()),
    "Route.request_headers": (route(), route(request_headers={"remove": ["X-A"]})),
    "Route.respond": (route(), respond()),
    "Route.response_headers": (route(), route(response_headers={"remove": ["X-A"]})),
    "Route.rewrite": (route(), route(rewrite="/other")),
    "Route.security_headers": (route(), route(security_headers=True)),
    "Route.service": (route(), route(service="v")),
    "Route.static": (route(), static()),
    "Route.timeout": (route(), route(timeout="3s")),
    "RouteCache.identity": (cache(), cache(identity="shared")),
    "RouteCache.ignore_client_directives": (cache(), cache(ignore_client_directives=True)),
    "RouteCache.per_host": (cache(), cache(per_host=False)),
    "RouteCache.statuses": (cache(), cache(statuses=[200])),
    "RouteCache.store_set_cookie": (cache(), cache(store_set_cookie=True)),
    "RouteCache.ttl": (cache(), cache(ttl="3s")),
    "RouteCache.vary_on": (cache(), cache(vary_on=["X-A"])),
    "SecurityHeaders.override": (top(security_headers=True), top(security_headers={"override": True})),
    "SecurityHeaders.hsts": (
        top(tls=TLS, security_headers=True),
        top(tls=TLS, security_headers={"hsts": "max-age=1"}),
    ),
    **{
        f"SecurityHeaders.{key}": (top(security_headers=True), top(security_headers={key: value}))
        for key, value in {
            "content_type_options": "off",
            "frame_options": "SAMEORIGIN",
            "referrer_policy": "origin",
            "opener_policy": "unsafe-none",
            "resource_policy": "same-site",
            "content_security_policy": "default-src 'self'; a \"b\"",
            "permissions_policy": "camera=()",
        }.items()
    },
    "Service.app": (service(), service(app="a:b")),
    "Service.balance": (service(), service(balance="least_inflight")),
    "Service.connect_timeout": (service(), service(connect_timeout="3s")),
    "Service.eject": (service(), service(eject="off")),
    "RouteCache.ttl_by_status": (cache(ttl="3s"), cache(ttl="3s", ttl_by_status={404: "2s"})),
    "Service.forwarding": (service(), service(forwarding="X-Real-IP")),
    "Service.host": (service(), service(host="a.example")),
    "Service.instances": (service(app="a:b"), service(app="a:b", instances=2)),
    "Service.keepalive": (service(), service(keepalive="3s")),
    "Service.max_connections": (service(), service(max_connections=3)),
    "Service.retries": (service(), service(retries={"on_status": [503]})),
    "Service.run": (service(app="a:b"), service(run="serve {port}")),
    "Service.targets": (service(), service(targets=["http://127.0.0.1:5002"])),
    "Service.tls": (service(**HTTPS), of_service(verify=False)),
    "Service.zones": (service(), service(zones={"z": ZONE})),
    "ServiceTls.ca": (of_service(), of_service(ca="ca.pem")),
    "ServiceTls.certificate": (of_service(), of_service(certificate="c.pem", key="k.pem")),
    "ServiceTls.key": (of_service(certificate="c.pem", key="k.pem"), of_service(certificate="c.pem", key="l.pem")),
    "ServiceTls.server_name": (of_service(), of_service(server_name="a.example")),
    "ServiceTls.verify": (of_service(), of_service(verify=False)),
    "Static.fallback": (static(), static(fallback="/index.html")),
    "Static.folder": (static(), static(folder="/usr")),
    "Static.index": (static(), static(index="home.html")),
    "Static.precompressed": (static(), static(precompressed=["gzip"])),
    "Static.try_files": (static(), static(try_files=["{path}.html"])),
    "Target.url": (service(), service(targets=["http://127.0.0.1:5002"])),
    "Target.weight": (
        service(),
        service(targets=[{"url": "http://127.0.0.1:5000", "weight": 2}, SERVICE["targets"][1]]),
    ),
    "Zone.priority": (
        service(zones={"y": ZONE, "z": ZONE}),
        service(zones={"y": ZONE, "z": {**ZONE, "priority": 1}}),
    ),
    "Zone.targets": (service(zones={"z": ZONE}), service(zones={"z": {"targets": ["http://127.0.0.1:5001"]}})),
    "Zone.weight": (service(zones={"y": ZONE, "z": ZONE}), service(zones={"y": ZONE, "z": {**ZONE, "weight": 2}})),
}
# Keys that --listen replaces here, or that have no other value without a loss.
NO_PAIR = {"Config.listen", "Listener.address", "Instances.max", "Route.encoded_slashes", "Route.priority"}


def exported(parts: Parts, export: Any = in_place) -> str:
    """Return the export of a file, without the line that has its digest."""
    file, u, r = parts
    source = {} if {"app", "run", "targets", "zones"} & u.keys() else SERVICE
    kind = {key: value for key, value in {"path": "/x", "service": "u", **r}.items() if value is not None}
    text = json.dumps(
        {**file, "services": {"u": {**source, **u}, "v": SERVICE}, "routes": [kind, {"path": "/v", "service": "v"}]}
    )
    result: str = export(deployed(text))[0]
    return result.partition("\n")[2]


def test_every_exported_key_has_a_pair() -> None:
    keys = {key for key, support in nginx_coverage.IN_PLACE.keys.items() if isinstance(support, Exported)}
    assert keys == PAIRS.keys() | NO_PAIR


@pytest.mark.parametrize("key", PAIRS)
def test_the_export_follows_the_key(key: str) -> None:
    one, other = PAIRS[key]
    assert exported(one) != exported(other)
    assert exported(one) == exported(one)


@pytest.mark.parametrize(
    "key",
    sorted(k for k, s in nginx_coverage.IN_FRONT.keys.items() if isinstance(s, Exported) and k.startswith("Limits.")),
)
def test_nginx_in_front_follows_the_limits_of_the_file(key: str) -> None:
    one, other = PAIRS[key]
    assert exported(one, in_front) != exported(other, in_front)


LOST = {
    "services.u.breaker": service(breaker={}),
    "services.u.health": service(health={"path": "/"}),
    "services.u.balance.sticky": service(balance={"sticky": {"cookie": "c", "secret": "0123456789abcdef"}}),
    "services.u.targets[0].url": service(targets=[{"url": "dns+http://a.example"}]),
    "services.u.balance.policy": service(balance={"policy": "ewma"}),
    "services.u.host": service(host="upstream"),
    "services.u.zones.z.priority": service(zones={"y": ZONE, "z": {**ZONE, "priority": 1}}),
    "routes[0].hedge": route(hedge={"after": "1s"}),
    "routes[0].cors": route(cors={"origins": "*"}),
    "routes[0].compress.codings": route(compress=["gzip", "br"]),
    "routes[0].match": route(match={"headers": {"X-A": "1"}}),
    "routes[0].request_headers.default": route(request_headers={"default": {"X-A": "1"}}),
    "routes[0].response_headers.when": route(response_headers={"when": {"status": "5xx", "remove": "X-A"}}),
    "routes[0].request_headers.add": route(request_headers={"add": {"X-A": "1"}}),
    "routes[0].encoded_slashes": route(encoded_slashes="keep"),
    "routes[0].rate_limit[0].by": route(rate_limit=[{"rate": "3/m", "by": "header:X-A"}]),
    "routes[0].rate_limit[0].rate": route(rate_limit=[{"rate": "3/d"}]),
    "routes[0].cache.tags": route(methods=["GET"], cache={"tags": ["a"]}),
    "routes[0].cache": route(cache={}),
    "routes[0].cache.ttl": route(methods=["GET"], cache={"ttl": "1500ms"}),
    "routes[0].body": route(body="0B"),
    "services.u.instances.max": service(app="a:b", instances={"min": 1, "max": 2}),
    "services.u.eject.time": service(eject={"time": "1500ms"}),
    "limits.headers": limits(headers=3),
    "redis": top(redis="redis://127.0.0.1"),
    "admin": top(admin="127.0.0.1:9901"),
}


@pytest.mark.parametrize("key", LOST)
def test_what_nginx_cannot_do_is_listed_once_under_its_key(key: str) -> None:
    file, u, r = LOST[key]
    source = {} if {"app", "targets", "zones"} & u.keys() else SERVICE
    found = {"services": {"u": {**source, **u}}, "routes": [{"path": "/x", "service": "u", **r}]}
    assert in_place(deployed(json.dumps({**file, **found})))[1] == [key]


def test_every_reason_of_a_loss_is_a_text() -> None:
    for coverage in TARGETS.values():
        for support in coverage.keys.values():
            assert not isinstance(support, Lost) or support.why


def test_exports_have_defaults_profiles_and_included_files_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSERELLE_PROFILE", "production")
    (tmp_path / "more.yaml").write_text("routes: [{path: /more, service: a, timeout: null}]\n")
    text = """\
include: more.yaml
defaults: {timeout: 7s}
services: {a: {targets: ['http://10.0.0.1:80']}}
routes: [{path: /main, service: a}]
profiles: {production: {services: {a: {targets: ['http://10.0.0.9:80']}}}}
"""
    deployment = deployed(text, str(tmp_path / "gateway.yaml"), dict(os.environ))
    assert values_of(deployment.root) == {
        "services": {"a": {"targets": ["http://10.0.0.9:80"]}},
        "routes": [{"path": "/main", "service": "a", "timeout": "7s"}, {"path": "/more", "service": "a"}],
    }
    written, losses = in_place(deployment)
    assert losses == [] and "server 10.0.0.9:80" in written and written.count("proxy_next_upstream_timeout 7s;") == 1
