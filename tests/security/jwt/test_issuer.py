"""Signed identity token for services: its claims, its verification, and how long it is reused."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from passerelle.http1.head import RequestHead
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity
from passerelle.security.jwt import issuer as identity_token
from passerelle.security.jwt.issuer import SendIdentity, Signer, signer_of_pem, signer_of_secret
from passerelle.security.jwt.jose import claims_of, key_of_pem, key_of_secret, parse

SECRET = b"0123456789abcdef0123456789abcdef"
KEY = ed25519.Ed25519PrivateKey.generate()
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Told:
    """Guard, and the claims of the last token that it added."""

    def __init__(self, signer: Signer, audience: tuple[str, ...] = ("orders",), lifetime: float = 60.0) -> None:
        self.now = 1_000_000.5
        self.guard = SendIdentity(signer, b"X-Consumer-Token", "gw", audience, lifetime, lambda: self.now)

    def token(self, identity: Identity | None) -> str | None:
        asked = GuardedCall(b"GET", b"/", b"10.0.0.1", RequestHead(b"", 100))
        asked.identity = identity
        assert self.guard(asked) is None
        if not asked.upstream_fields:
            return None
        assert asked.upstream_fields.startswith(b"X-Consumer-Token: ") and asked.upstream_fields.endswith(b"\r\n")
        return asked.upstream_fields[18:-2].decode("ascii")

    def claims(self, identity: Identity) -> dict[str, Any]:
        text = self.token(identity)
        assert text is not None
        return claims_of(parse(text))


def test_it_holds_under_the_public_key_and_no_other() -> None:
    text = Told(signer_of_pem(PEM)).token(Identity("ann", ("b", "a"), "key"))
    assert text is not None
    token = parse(text)
    key = key_of_pem(PUBLIC)
    assert (token.algorithm, token.kid) == ("EdDSA", key.thumbprint)
    assert key.verifies(token)
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    assert not key_of_pem(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).verifies(token)
    assert claims_of(token) == {
        "iss": "gw",
        "sub": "ann",
        "aud": "orders",
        "iat": 1_000_000,
        "exp": 1_000_060,
        "scope": "a b",
        "auth": "key",
    }


def test_it_holds_under_a_shared_secret() -> None:
    text = Told(signer_of_secret(SECRET), ("a", "b")).token(Identity("ann", (), "mtls"))
    assert text is not None
    token = parse(text)
    assert (token.algorithm, token.kid) == ("HS256", None)
    assert key_of_secret(SECRET, frozenset({"HS256"})).verifies(token)
    assert not key_of_secret(SECRET[::-1], frozenset({"HS256"})).verifies(token)
    assert claims_of(token)["aud"] == ["a", "b"]


def test_what_a_name_holds_stays_within_it() -> None:
    name = 'ann", "sub": "root\r\nX-Evil: 1 é'
    assert Told(signer_of_secret(SECRET)).claims(Identity(name, (), "forward"))["sub"] == name


def test_roles_are_those_of_a_session_alone() -> None:
    told = Told(signer_of_secret(SECRET))
    roles = {"roles": ["admin"]}
    assert told.claims(Identity("1", (), "session", claims=roles))["roles"] == ["admin"]
    assert "roles" not in told.claims(Identity("1", (), "jwt", claims=roles))


def test_a_token_is_used_for_half_of_its_life() -> None:
    told = Told(signer_of_secret(SECRET))
    ann, bob = Identity("ann", (), "key"), Identity("bob", (), "key")
    first = told.token(ann)
    told.now += 29.0
    assert told.token(ann) == first
    assert told.token(Identity("ann", (), "key")) == first
    assert told.token(bob) != first
    assert told.token(Identity("ann", ("more",), "key")) != first
    told.now += 1.0
    second = told.claims(ann)
    assert (second["iat"], second["exp"]) == (1_000_030, 1_000_090)
    told.now = 999_990.0  # the clock was set back
    assert told.claims(ann)["iat"] == 999_990


def test_without_an_identity_there_is_no_token() -> None:
    assert Told(signer_of_secret(SECRET)).token(None) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_token, "REMEMBERED", 2)
    told = Told(signer_of_secret(SECRET))
    made = [told.token(Identity(name, (), "key")) for name in "abc"]
    assert len(told.guard._known) == 2
    assert told.token(Identity("c", (), "key")) == made[2]


@pytest.mark.parametrize(
    "pem",
    [
        PUBLIC,
        b"no PEM",
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_keys_that_cannot_sign(pem: bytes) -> None:
    with pytest.raises(ValueError, match="Ed25519 key in PEM"):
        signer_of_pem(pem)
