"""The guards of a route: one list decides their order, their builders and their descriptions."""

from __future__ import annotations

from passerelle.config import load_text
from passerelle.config.guards import GUARDS, describe_guards
from passerelle.gateway.assembly.guards import GuardFactory

EVERYTHING = """
jwt: {algorithms: [RS256], jwks: "https://issuer.example/keys", audience: shop}
identity_token: {secret: 0123456789abcdef0123456789abcdef}
services: {u: {targets: ["http://127.0.0.1:5001"]}}
routes:
  - path: /a
    service: u
    clients: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}
    rate_limit: [{rate: 5/s, by: consumer, dry_run: true}, {rate: 10/s, burst: 20, cost: 2}]
    cors: {origins: "https://shop.example", methods: [GET], headers: X-A, credentials: true}
    auth: [jwt]
    require: {scopes: [a, b], consumers: [c], roles: [d], claims: {tenant: [e, 1]}}
    forward_auth: {service: u, path: /v, copy_headers: X-User, cache: 10s, cache_by: uri}
    identity_token: true
"""


def test_each_guard_has_one_builder() -> None:
    names = [guard.name for guard in GUARDS]
    assert len(set(names)) == len(names)
    assert GuardFactory.BUILDERS.keys() == set(names)


def test_the_guards_are_described_in_the_order_in_which_they_run() -> None:
    assert describe_guards(load_text(EVERYTHING).routes[0]) == [
        "clients: allow 10.0.0.0/8",
        "clients: deny 10.1.0.0/16",
        "rate_limit: 10/s by address, burst 20, cost 2",
        "cors: https://shop.example, methods GET, headers X-A, credentials",
        "auth: jwt",
        "require: scopes a, b",
        "require: consumer c",
        "require: role d",
        "require: claim tenant is e or 1",
        "forward_auth: u /v, copies X-User, remembered 10s, failure closed",
        "rate_limit: 5/s by consumer, burst 5, dry run",
        "identity_token: signed, for services",
    ]
