"""`passerelle explain` names the side of a split that a request takes, as the gateway chooses it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.supervisor.explanation import explanation, parse_request
from tests.conformance.conftest import loop, rig
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

__all__ = ["loop", "rig"]

SERVICES = {name: {"targets": [f"http://127.0.0.1:{port}"]} for port, name in enumerate(("old", "new"), 1)}
OVERRIDE = {"header": "X-Side", "roles": ["tester"], "clients": ["10.0.0.0/8"]}


def split(by: str = "address", share: int = 500, **more: Any) -> dict[str, Any]:
    return {"by": by, "weights": {"new": share}, **more}


def config(settings: dict[str, Any]) -> Config:
    route: dict[str, Any] = {"path": "/a", "service": "old", "split": settings}
    top: dict[str, Any] = {}
    if settings["by"] == "consumer":
        route["auth"] = ["key"]
        top["keys"] = {"store": "keys.db"}
    return load_text(json.dumps({**top, "services": SERVICES, "routes": [route]}))


def side(settings: dict[str, Any], *fields: tuple[str, str], **user: Any) -> tuple[str | None, str]:
    found = explanation(config(settings), parse_request("GET", "/a", fields=fields, **user))["route"]["side"]
    return found["side"], found["reason"]


def test_the_side_is_that_of_the_gateway(rig: Rig) -> None:
    bodies = {"old": b"old", "new": b"new"}
    services = {name: {"targets": [rig.upstream(answering(ok(body))).url]} for name, body in bodies.items()}
    gateway = rig.gateway(services, [{"path": "/a", "service": "old", "split": split("header:X-User")}])
    client = rig.connect(gateway)
    users = [f"user-{number}" for number in range(30)]
    served = [client.request("GET", "/a", ("X-User", user)).body.decode() for user in users]
    assert [side(split("header:X-User"), ("X-User", user))[0] for user in users] == served
    assert set(served) == {"old", "new"}


def test_the_reason_names_what_identifies_the_user_and_the_share() -> None:
    assert side(split("consumer"), consumer="ada")[1] == "the consumer falls into the share of 50%"
    assert side(split("cookie:uid"), ("Cookie", "a=1; uid=7"))[1] == "the cookie uid falls into the share of 50%"
    assert side(split(), address="192.0.2.7")[1] == "the address falls into the share of 50%"
    without = "without the header x-user the address counts: it falls into the share of 50%"
    assert side(split("header:X-User"), address="192.0.2.7")[1] == without
    assert side(split("header:X-User", 0)) == ("old", "all users have it")


@pytest.mark.parametrize(
    ("by", "option"),
    [
        ("address", "the address: give --from"),
        ("consumer", "the consumer: give --as, or --from for a request without it"),
        ("header:X-User", "the header x-user: give -H, or --from for a request without it"),
        ("cookie:uid", "the cookie uid: give --cookie, or --from for a request without it"),
    ],
)
def test_without_the_user_the_side_is_not_known(by: str, option: str) -> None:
    assert side(split(by)) == (None, f"it depends on {option}")


def test_an_override_holds_for_its_roles_and_addresses_only() -> None:
    settings = split("consumer", 0, override=OVERRIDE)
    chosen = ("new", "the override of the request names it")
    field = "X-Side", "new"
    assert side(settings, field, consumer="ada", roles=["tester"]) == chosen
    assert side(settings, field, address="10.1.2.3") == chosen
    refused = "; the override names 'new', but this client has none of its roles and addresses"
    assert side(settings, field, consumer="ada", address="192.0.2.1") == ("old", f"all users have it{refused}")
    unknown = "all users have it; the override names 'x', which is no side"
    assert side(settings, ("X-Side", "x"), address="10.1.2.3") == ("old", unknown)


def test_parts_have_their_own_sides() -> None:
    part = {"service": "old", "path": "/p", "split": split(share=1000)}
    routes = [{"path": "/a", "compose": {"a": part, "b": {"service": "new", "path": "/q"}}}]
    text = json.dumps({"services": SERVICES, "routes": routes})
    route = explanation(load_text(text), parse_request("GET", "/a"))["route"]
    assert route["side"] is None
    assert [part["side"] for part in route["parts"]] == [{"side": "new", "reason": "all users have it"}, None]
