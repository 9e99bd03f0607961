"""The progress of a migration: which routes use the monolith, a service, or a shadow."""

from __future__ import annotations

import pytest

from passerelle.config import load_text
from passerelle.migration.progress import monolith_of, progress_of, summary

CONFIG = """\
services:
  monolith: {targets: ["http://127.0.0.1:5000"]}
  user: {targets: ["http://127.0.0.1:5001"]}
  product: {targets: ["http://127.0.0.1:5002"]}
routes:
  - {path: /user, service: user}
  - {path: "/user/{id}", service: monolith, shadow: {service: user}}
  - {path: "/product/{id}", service: monolith, shadow: {service: product}}
  - {path: /about, methods: [GET], service: monolith}
  - {path: /all, compose: {user: {service: user, path: /user}, product: {service: product, path: /product}}}
  - {path: /half, compose: {user: {service: user, path: /user}, old: {service: monolith, path: /old}}}
  - {path: /split, service: monolith, split: {weights: {user: 0}}, shadow: {service: user}}
  - path: /parts
    compose:
      a: {service: monolith, path: /a, split: {weights: {user: 250}}}
      b: {service: monolith, path: /b, split: {weights: {user: 1000}}}
  - {path: "/{rest*}", service: monolith}
"""
REPORTS = {
    "/user/{id}": {"verdict": "2 of 9 responses differ", "compared": 9, "differing": 2},
    "/product/{id}": {"verdict": "9 responses are the same", "compared": 9, "differing": 0},
}


def test_each_route_has_a_state_and_the_one_for_the_rest_does_not_count() -> None:
    found = progress_of(load_text(CONFIG), "monolith", REPORTS)
    assert [(each.route, each.state, each.services, each.differing) for each in found] == [
        ("/user", "services", ("user",), None),
        ("/user/{id}", "shadowed", ("monolith",), 2),
        ("/product/{id}", "shadowed", ("monolith",), 0),
        ("GET /about", "monolith", ("monolith",), None),
        ("/all", "services", ("user", "product"), None),
        ("/half", "monolith", ("user", "monolith"), None),
        ("/split", "shadowed", ("monolith",), None),
        ("/parts", "moving", ("monolith", "user"), None),
    ]
    assert summary(found) == "2 of 8 routes are on services, 1 in part; 3 shadowed, 1 with differences"
    assert (
        summary(progress_of(load_text(CONFIG), "monolith", {}))
        == "2 of 8 routes are on services, 1 in part; 3 shadowed"
    )


def test_the_weights_of_a_running_gateway_replace_those_of_the_file() -> None:
    weights = {"/split": {"monolith": 0, "user": 1000}, "/parts#a": {"monolith": 1000, "user": 0}}
    found = {each.route: (each.state, each.share) for each in progress_of(load_text(CONFIG), "monolith", {}, weights)}
    assert found["/split"] == ("services", 1.0)
    assert found["/parts"] == ("monolith", 0.0)


def test_the_monolith_is_named_or_has_the_route_for_the_rest() -> None:
    config = load_text(CONFIG)
    assert monolith_of(config, None) == "monolith"
    assert monolith_of(config, "user") == "user"
    assert monolith_of(load_text(CONFIG.replace("monolith", "old")), None) == "old"
    with pytest.raises(ValueError, match="found no service 'x'; the file has monolith, user, product"):
        monolith_of(config, "x")
    with pytest.raises(ValueError, match="name the monolith"):
        monolith_of(load_text(CONFIG.replace("monolith", "old").replace("/{rest*}", "/{rest}")), None)
