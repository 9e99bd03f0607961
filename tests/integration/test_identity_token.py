"""The signed identity token that services receive, through a running gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from passerelle.config import ConfigError
from passerelle.errors import CannotStart
from passerelle.security.credentials.api_keys import KeyStore
from passerelle.security.jwt.jose import claims_of, key_of_pem, parse
from tests.support.gateways import Rig
from tests.support.upstream import answering, ok
from tests.support.wire import Request

KEY = ed25519.Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JSON = b"Content-Type: application/json"


def claims(request: Request) -> dict[str, Any]:
    (value,) = request.all("x-consumer-token")
    token = parse(value.decode("ascii"))
    assert key_of_pem(PUBLIC).verifies(token)
    return claims_of(token)


def test_services_get_it_and_clients_cannot_send_it(rig: Rig, tmp_path: Path) -> None:
    pem = tmp_path / "identity.pem"
    pem.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    store = KeyStore(tmp_path / "keys.db")
    key = ("X-API-Key", store.create("app", ("read",), 0, None)[1])
    users, products = rig.upstream(answering(ok(b"{}", JSON))), rig.upstream(answering(ok(b"{}", JSON)))
    services = {"users": {"targets": [users.url]}, "products": {"targets": [products.url]}}
    told = {"auth": ["key"], "identity_token": True}
    top = {"keys": {"store": str(tmp_path / "keys.db")}, "identity_token": {"key": str(pem), "issuer": "gw"}}
    compose = {"u": {"service": "users", "path": "/u"}, "p": {"service": "products", "path": "/p"}}
    routes = [
        {"path": "/one", "service": "users", **told},
        {"path": "/both", "compose": compose, **told},
        {"path": "/plain", "service": "users", "auth": ["key"]},
        {"path": "/open", "service": "users"},
    ]
    gateway = rig.gateway(services, routes, **top)
    client = rig.connect(gateway)
    forged = [("X-Consumer-Token", "forged"), ("x_consumer_token", "forged")]
    for path in ("/one", "/one", "/both", "/plain", "/open"):
        assert client.request("GET", path, key, *forged).status == 200
    assert client.request("GET", "/one", *forged).status == 401
    one, again, both, plain, public = users.requests
    assert b"forged" not in b"".join(request.raw for request in users.requests + products.requests)
    said = claims(one)
    assert said["exp"] - said["iat"] == 60
    assert {name: said[name] for name in ("iss", "sub", "aud", "scope", "auth")} == {
        "iss": "gw",
        "sub": "app",
        "aud": "users",
        "scope": "read",
        "auth": "key",
    }
    assert claims(again)["sub"] == "app"
    assert claims(both) == claims(products.requests[0])
    assert claims(both)["aud"] == ["products", "users"]
    assert not plain.all("x-consumer-token") and not public.all("x-consumer-token")
    assert both.all("x-consumer") == [b"app"]

    pem.write_bytes(b"no key")
    with pytest.raises(CannotStart, match="no Ed25519 key in PEM"):
        gateway.reload(services, routes, **top)
    pem.unlink()
    with pytest.raises(ConfigError, match=r"identity_token\.key: cannot read"):
        gateway.reload(services, routes, **top)
    assert client.request("GET", "/one", key).status == 200
    store.close()


def test_a_consumer_that_a_service_names(rig: Rig) -> None:
    judge = rig.upstream(answering(ok(b"", b"X-User: ann")))
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}, "auth": {"targets": [judge.url]}},
        [
            {
                "path": "/a",
                "service": "u",
                "forward_auth": {"service": "auth", "path": "/v", "consumer": "X-User", "timeout": "30s"},
                "identity_token": True,
            }
        ],
        identity_token={"secret": "0123456789abcdef0123456789abcdef", "header": "X-Consumer-Jwt", "audience": "shop"},
    )
    assert rig.connect(gateway).request("GET", "/a").status == 200
    (value,) = upstream.requests[0].all("x-consumer-jwt")
    said = claims_of(parse(value.decode("ascii")))
    assert (said["sub"], said["aud"], said["auth"]) == ("ann", "shop", "forward")
    assert not judge.requests[0].all("x-consumer-jwt")
