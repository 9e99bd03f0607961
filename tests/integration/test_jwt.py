"""Tokens through a running gateway, and B25 with an issuer that is a real server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey

from passerelle.errors import Kind
from tests.security.jwt.test_jose import SECRET, rsa_key, sign, sign_by_hand
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, answering, ok
from tests.support.wire import wait_until

K1, K2 = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")


class Issuer:
    """Serves a key set; ``held`` keeps its answers back, ``broken`` is sent instead."""

    def __init__(self, rig: Rig, **keys: ECKey) -> None:
        self.keys = keys
        self.broken: bytes | None = None
        self.held = threading.Event()
        self.held.set()
        self.server = rig.upstream(self._serve)

    def _serve(self, conn: Connection) -> None:
        conn.read_request()
        conn.wait(self.held)
        keys = [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]
        conn.send(self.broken or ok(json.dumps({"keys": keys}).encode()))
        conn.close()

    @property
    def fetches(self) -> int:
        return len(self.server.requests)


def token(key: Any, kid: str | None = None, alg: str = "ES256", **claims: Any) -> str:
    header = {"alg": alg} if kid is None else {"alg": alg, "kid": kid}
    payload = {"sub": "alice", "aud": "shop", "exp": int(time.time()) + 60, **claims}
    return sign(key, header, json.dumps(payload).encode())


def guarded(rig: Rig, **jwt: Any) -> Running:
    upstream = rig.upstream(answering(ok()))
    route = {"auth": ["jwt"], "rate_limit": {"rate": "1000/s", "by": "consumer"}}
    return rig.forward(upstream, route=route, jwt={"audience": "shop", **jwt})


def ask(client: Any, text: str, *fields: tuple[str, str]):
    return client.request("GET", "/", ("Authorization", f"Bearer {text}"), *fields)


def by_issuer(rig: Rig, issuer: Issuer, cooldown: str = "1s") -> Running:
    return guarded(rig, algorithms=["ES256"], jwks=f"{issuer.server.url}/keys", cooldown=cooldown)


def test_a_token_is_an_identity(rig: Rig) -> None:
    gateway = guarded(rig, algorithms=["HS256"], secret=SECRET.decode(), forward={"email": "X-Consumer-Email"})
    client = rig.connect(gateway)
    text = token(OctKey.import_key(SECRET), None, "HS256", scope="b a", email="é@b.example")
    answer = ask(client, text, ("X-Consumer-Email", "root"), ("X-Consumer", "root"))
    assert answer.status == 200
    assert answer.get("ratelimit") == b'"1000/s by consumer";r=999;t=1'
    (request,) = rig.upstreams[0].requests
    said = {
        name: request.all(name) for name in ("x-consumer", "x-consumer-scopes", "x-consumer-auth", "x-consumer-email")
    }
    assert list(said.values()) == [[b"alice"], [b"a b"], [b"jwt"], [b"%C3%A9@b.example"]]
    assert request.get("authorization") == b"Bearer " + text.encode()


def test_a_bad_token_is_401_with_a_reason_in_the_log_alone(rig: Rig, tmp_path: Path) -> None:
    upstream = rig.upstream(answering(ok()))
    log = tmp_path / "log"
    pem = tmp_path / "key.pem"
    pem.write_bytes(rsa_key().as_pem(private=False))
    gateway = rig.forward(
        upstream,
        route={"auth": ["jwt"]},
        jwt={"algorithms": ["RS256"], "key": str(pem), "audience": "shop", "issuer": "me"},
        access_log=str(log),
    )
    client = rig.connect(gateway)
    good = token(rsa_key(), None, "RS256", iss="me")
    bad = {
        "algorithm not allowed": sign_by_hand(pem.read_bytes()),
        "malformed token": "eyJhbGciOiJub25lIn0.e30.",
        "token for another audience": token(rsa_key(), None, "RS256", iss="me", aud="other"),
        "token from another issuer": token(rsa_key(), None, "RS256", iss="you"),
        "token not valid for another": token(rsa_key(), None, "RS256", iss="me", nbf=int(time.time()) + 600),
        "token expired": token(rsa_key(), None, "RS256", iss="me", exp=int(time.time()) - 600),
        "invalid signature": good[:-6] + ("AAAAAA" if good[-6:] != "AAAAAA" else "BBBBBB"),
    }
    assert ask(client, good).status == 200
    for text in bad.values():
        answer = ask(client, text)
        assert answer.status == 401
        assert answer.get("www-authenticate") == b'Bearer realm="passerelle", error="invalid_token"'
        assert json.loads(answer.body).keys() == {"type", "title", "status", "kind", "request_id"}
    assert client.request().get("www-authenticate") == b'Bearer realm="passerelle"'
    assert len(upstream.requests) == 1
    gateway.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line, why in zip(lines[1:], [*bad, "no credentials"], strict=True):
        assert line["why"].startswith(why) and line["failure"] == "unauthenticated"
    assert "eyJ" not in log.read_text()


def test_a_new_key_is_accepted_after_one_shared_fetch(rig: Rig) -> None:
    issuer = Issuer(rig, k1=K1)
    gateway = by_issuer(rig, issuer)
    assert ask(rig.connect(gateway), token(K1, "k1")).status == 200
    assert issuer.fetches == 1
    issuer.keys = {"k2": K2}
    client = rig.connect(gateway)
    wait_until(lambda: ask(client, token(K2, "k2")).status == 200, "the new key is known", 5)  # the cooldown is 1 s
    assert issuer.fetches == 2
    assert ask(client, token(K1, "k1")).status == 401


def test_twenty_at_once_wait_for_the_same_fetch(rig: Rig) -> None:
    issuer = Issuer(rig, k1=K1)
    issuer.held.clear()
    gateway = by_issuer(rig, issuer, "30s")
    clients = [rig.connect(gateway) for _ in range(20)]
    for client in clients:
        client.send(f"GET / HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token(K1, 'k1')}\r\n\r\n".encode())
    gone = rig.connect(gateway)
    gone.send(f"GET / HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {token(K1, 'k1')}\r\n\r\n".encode())
    wait_until(lambda: sum(r["in_flight"] for r in gateway.snapshot()["routes"].values()) == 21, "all of them wait")
    gone.reset()  # a mere end of sending would be a half-close
    wait_until(lambda: sum(r["in_flight"] for r in gateway.snapshot()["routes"].values()) == 20, "one is gone")
    issuer.held.set()
    assert [client.read_response().status for client in clients] == [200] * 20
    assert issuer.fetches == 1
    assert len(rig.upstreams[1].requests) == 20


def test_a_body_that_comes_while_its_sender_waits_is_whole(rig: Rig) -> None:
    issuer = Issuer(rig, k1=K1)
    issuer.held.clear()
    gateway = by_issuer(rig, issuer)
    client = rig.connect(gateway)
    head = f"POST / HTTP/1.1\r\nHost: gw\r\nContent-Length: 300000\r\nAuthorization: Bearer {token(K1, 'k1')}\r\n\r\n"
    sender = threading.Thread(target=client.send, args=(head.encode() + b"x" * 300_000,))
    sender.start()
    issuer.server.wait_heads(1)
    wait_until(lambda: sum(r["in_flight"] for r in gateway.snapshot()["routes"].values()) == 1, "it waits")
    issuer.held.set()
    assert client.read_response("POST").status == 200
    sender.join()
    assert rig.upstreams[1].requests[0].body == b"x" * 300_000
    assert ask(client, token(K1, "k1")).status == 200


def test_random_kids_do_not_hammer_the_issuer(rig: Rig) -> None:
    issuer = Issuer(rig, k1=K1)
    gateway = by_issuer(rig, issuer, "30s")
    client = rig.connect(gateway)
    assert ask(client, token(K1, "k1")).status == 200
    assert {ask(client, token(K2, f"random-{number}")).status for number in range(200)} == {401}
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        ok(b"<html>", b"Content-Type: text/html"),
        ok(b'{"keys":[]}'),
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    ],
)
def test_an_issuer_that_fails_causes_no_500(rig: Rig, broken: bytes) -> None:
    issuer = Issuer(rig, k1=K1)
    issuer.broken = broken
    gateway = by_issuer(rig, issuer, "250ms")
    client = rig.connect(gateway)
    answer = ask(client, token(K1, "k1"))
    assert answer.status == 503
    assert json.loads(answer.body)["kind"] == Kind.UNVERIFIABLE.value
    issuer.broken = None
    wait_until(lambda: ask(client, token(K1, "k1")).status == 200, "the issuer is back", 5)
    issuer.broken = broken
    wait_until(lambda: ask(client, token(K2, "k2")).status == 401 and issuer.fetches >= 3, "it fails again", 5)
    assert ask(client, token(K1, "k1", jti=1)).status == 200  # the last good set is kept
    assert rig.log.records  # that it failed is said


def test_a_key_set_in_a_file(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{**K1.as_dict(private=False), "kid": "k1"}]}))
    gateway = guarded(rig, algorithms=["ES256"], jwks=str(path), cooldown="1s")
    client = rig.connect(gateway)
    assert ask(client, token(K1, "k1")).status == 200
    path.write_text(json.dumps({"keys": [{**K2.as_dict(private=False), "kid": "k2"}]}))
    wait_until(lambda: ask(client, token(K2, "k2")).status == 200, "the new key is known", 5)


def test_any_of_two_kinds_of_credentials(rig: Rig, tmp_path: Path) -> None:
    from passerelle.security.credentials.api_keys import KeyStore

    upstream = rig.upstream(answering(ok()))
    store = KeyStore(tmp_path / "keys.db")
    _, key = store.create("app", [], 1)
    store.close()
    gateway = rig.forward(
        upstream,
        route={"auth": ["jwt", "key"]},
        jwt={"algorithms": ["HS256"], "secret": SECRET.decode()},
        keys={"store": str(tmp_path / "keys.db")},
    )
    client = rig.connect(gateway)
    good = token(OctKey.import_key(SECRET), None, "HS256")
    assert ask(client, good).status == 200
    assert client.request("GET", "/", ("X-API-Key", key)).status == 200
    assert ask(client, "nonsense", ("X-API-Key", key)).status == 200
    assert ask(client, good, ("X-API-Key", "nonsense")).status == 200
    neither = ask(client, "nonsense", ("X-API-Key", "nonsense"))
    assert neither.status == 401
    assert len(neither.all("www-authenticate")) == 2
    assert [r.get("x-consumer") for r in upstream.requests] == [b"alice", b"app", b"app", b"alice"]
    assert not any(r.all("x-api-key") for r in upstream.requests)
