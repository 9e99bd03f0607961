"""Tokens as credentials: their claims, the resulting identity, and how long it is cached."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import OctKey

from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.identity import Identity
from passerelle.security.jwt import verifier as jwt
from passerelle.security.jwt.jose import key_of_secret
from passerelle.security.jwt.key_set import FixedKeys
from passerelle.security.jwt.verifier import JwtMethod, JwtRules, check_claims, identity_of
from tests.security.jwt.test_jose import SECRET, sign
from tests.security.ratelimit.test_gcra import asked

NOW = 1_800_000_000
RULES = JwtRules(frozenset({"HS256"}), "https://issuer", frozenset({"shop", "admin"}), leeway=10.0)
GOOD = {"iss": "https://issuer", "aud": "shop", "exp": NOW + 60, "sub": "alice"}


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def method(rules: JwtRules = RULES, clock: Clock | None = None) -> JwtMethod:
    return JwtMethod(rules, FixedKeys(key_of_secret(SECRET, rules.algorithms)), clock or Clock())


def bearer(claims: Any = GOOD, *, key: bytes = SECRET, alg: str = "HS256", scheme: str = "Bearer "):
    text = sign(
        OctKey.import_key(key), {"alg": alg}, claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    )
    return asked(b"", (b"authorization", (scheme + text).encode()))


@pytest.mark.parametrize(
    "change",
    [
        *({}, {"aud": ["x", "admin"]}, {"nbf": NOW + 10}, {"nbf": NOW - 5}, {"exp": NOW - 9}, {"exp": NOW + 0.5}),
        *({"iat": NOW + 10_000}, {"nbf": None}, {"unknown": [1]}),
    ],
)
def test_claims_that_hold(change: dict[str, Any]) -> None:
    claims = {**GOOD, **change}
    assert check_claims(claims, RULES, NOW) == claims["exp"] + 10


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exp": NOW - 10}, "expired 10 s ago"),
        ({"exp": None}, "without exp"),
        ({"exp": "never"}, "malformed exp"),
        ({"exp": True}, "malformed exp"),
        ({"exp": float("inf")}, "malformed exp"),
        ({"exp": float("nan")}, "malformed exp"),
        ({"nbf": NOW + 11}, "not valid for another 11 s"),
        ({"nbf": "0"}, "malformed nbf"),
        ({"iss": "https://issuer/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"iss": ["https://issuer"]}, "another issuer"),
        ({"aud": "other"}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": {"shop": 1}}, "another audience"),
        ({"aud": [["shop"]]}, "another audience"),
    ],
)
def test_claims_that_do_not_hold(change: dict[str, Any], why: str) -> None:
    with pytest.raises(CredentialRejected, match=why):
        check_claims({**GOOD, **change}, RULES, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4
)


@given(st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "sub", "scope", "email"]), JSON))
def test_whatever_the_claims_are_they_hold_or_are_rejected(claims: dict[str, Any]) -> None:
    rules = JwtRules(frozenset({"HS256"}), forward={"email": b"X-Consumer-Email"})
    try:
        check_claims(claims, rules, NOW)
        identity = identity_of(claims, rules)
    except CredentialRejected:
        return
    assert identity.lines.count(b"\r\n") == len(identity.lines.splitlines())


def test_a_token_makes_an_identity() -> None:
    rules = JwtRules(
        RULES.algorithms,
        consumer="client_id",
        scopes="scp",
        forward={"email": b"X-Consumer-Email", "x": b"X-Consumer-X"},
    )
    claims = {
        "exp": NOW + 60,
        "client_id": "app",
        "scp": ["b", "a"],
        "email": "a@b.example\r\nX-Consumer: root",
        "x": None,
    }
    found = method(rules).identify(bearer(claims))
    assert isinstance(found, Identity)
    assert (found.consumer, found.scopes, found.claims) == ("app", {"a", "b"}, claims)
    assert found.lines == (
        b"X-Consumer: app\r\nX-Consumer-Scopes: a b\r\nX-Consumer-Auth: jwt\r\n"
        b"X-Consumer-Email: a@b.example%0D%0AX-Consumer: root\r\n"
    )


@pytest.mark.parametrize(
    ("scope", "scopes"), [("a b", {"a", "b"}), ("", set()), (None, set()), (5, set()), ([1], set())]
)
def test_scopes(scope: Any, scopes: set[str]) -> None:
    assert identity_of({**GOOD, "scope": scope}, RULES).scopes == scopes


@pytest.mark.parametrize("subject", [None, "", 5, ["alice"], "x" * 2000])
def test_a_token_without_a_subject_is_rejected(subject: Any) -> None:
    with pytest.raises(CredentialRejected):
        method().identify(bearer({**GOOD, "sub": subject}))


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer  "])
def test_the_scheme_has_no_case(scheme: str) -> None:
    assert isinstance(method().identify(bearer(scheme=scheme)), Identity)


def test_other_credentials_are_not_ours() -> None:
    assert method().identify(asked()) is None
    assert method().identify(asked(b"", (b"authorization", b"Basic YTpi"))) is None
    assert method().identify(asked(b"", (b"authorization", b"Bearer"))) is None


@pytest.mark.parametrize(
    "request_",
    [
        bearer(key=b"x" * 64),
        bearer(alg="HS512"),
        bearer(b"[]"),
        bearer(b"\xff"),
        bearer(b""),
        asked(b"", (b"authorization", b"Bearer \xff.\xff.\xff")),
        asked(b"", (b"authorization", b"Bearer eyJhbGciOiJub25lIn0.e30.")),
        asked(b"", *[(b"authorization", bearer().fields[0].value)] * 2),
    ],
)
def test_what_does_not_hold_is_rejected_without_being_shown(request_: Any) -> None:
    with pytest.raises(CredentialRejected) as why:
        method().identify(request_)
    assert "ey" not in str(why.value).split()


def test_two_authorization_lines_are_rejected_also_when_the_first_token_is_remembered() -> None:
    remembering, line = method(), (b"authorization", bearer().fields[0].value)
    for _ in range(2):
        for second in (line, (b"authorization", b"Bearer e30.e30.eA"), (b"authorization", b"Basic YTpi")):
            with pytest.raises(CredentialRejected, match="more than one"):
                remembering.identify(asked(b"", line, second))
        assert remembering.identify(asked(b"", line)) is not None


@pytest.mark.parametrize(
    "claims", [b'{"sub":"a","sub":"root","exp":9999999999}', b'{"sub":"a","exp":1e10,"o":{"a":1,"a":1}}']
)
def test_claims_with_a_name_twice_are_rejected(claims: bytes) -> None:
    with pytest.raises(CredentialRejected, match="malformed claims"):
        method().identify(bearer(claims))


def test_an_integer_with_an_exponent_stays_an_integer() -> None:
    rules = dataclasses.replace(RULES, forward={"level": b"X-Consumer-Level", "share": b"X-Consumer-Share"})
    found = method(rules).identify(bearer({**GOOD, "level": 0, "share": 0.25}))
    assert isinstance(found, Identity) and b"X-Consumer-Share: 0.25\r\n" in found.lines
    text = json.dumps({**GOOD, "level": 12345}).replace("12345", "1e3").encode()
    found = method(rules).identify(bearer(text))
    assert isinstance(found, Identity) and b"X-Consumer-Level: 1000\r\n" in found.lines


def test_a_token_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, request = Clock(), bearer()
    remembering = method(clock=clock)
    first = remembering.identify(request)
    monkeypatch.setattr(JwtMethod, "_verify", lambda *_: pytest.fail("verified again"))
    assert remembering.identify(request) is first
    clock.now += 69.9
    assert remembering.identify(request) is first
    monkeypatch.undo()
    clock.now += 0.2
    with pytest.raises(CredentialRejected, match="expired"):
        remembering.identify(request)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt, "REMEMBERED_TOKENS", 10)
    remembering = method()
    for number in range(50):
        remembering.identify(bearer({**GOOD, "jti": number}))
        with pytest.raises(CredentialRejected):
            remembering.identify(bearer({**GOOD, "jti": number}, key=b"x" * 64))
    assert len(remembering._known) == 10
