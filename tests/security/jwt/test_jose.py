"""Tokens and keys: examples of RFC 7515 and RFC 8037, and tokens that must never verify."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from passerelle.config.models.jwt import SECRET_OCTETS as CONFIGURED_OCTETS
from passerelle.config.models.jwt import Algorithm
from passerelle.security.jwt.jose import (
    ALGORITHMS,
    LONGEST_TOKEN,
    SECRET_OCTETS,
    InvalidToken,
    claims_of,
    key_of_jwk,
    key_of_pem,
    key_of_secret,
    keys_of_set,
    parse,
    verification_key,
)
from tests.security.jwt.vectors import verify
from tests.support.cpu import cpu_timer

EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")
SECRET = b"0123456789abcdef" * 4


@functools.cache
def rsa_key(owner: str = "own") -> RSAKey:
    """Return the RSA key of ``owner``. A new one takes long."""
    return RSAKey.generate_key(2048)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(key: Any, header: dict[str, Any], payload: bytes = b'{"a":1}') -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about EdDSA's old name
        return jws.serialize_compact(header, payload, key, algorithms=[header["alg"]])


def sign_by_hand(secret: bytes, payload: bytes = b'{"sub":"root"}') -> str:
    """Sign with HS256 under any octets: joserfc refuses to sign with the text of a public key."""
    head, body = b64(b'{"alg":"HS256"}'), b64(payload)
    return f"{head}.{body}.{b64(hmac.digest(secret, f'{head}.{body}'.encode(), hashlib.sha256))}"


def test_rfc7515_a1() -> None:
    key = {
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    }
    token = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv"
        "bS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    assert verify(key, token)
    assert claims_of(parse(token)) == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert not verify(key, token[:-1] + "l")


def test_rfc7515_a3() -> None:
    key = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    token = (
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl"
        "fQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    assert verify(key, token)


def test_rfc8037_a4() -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    token = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert verify(key, token)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_verifies_with_its_key_and_with_no_other(algorithm: str) -> None:
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    if algorithm in SECRET_OCTETS:
        signer: Any = OctKey.import_key(SECRET)
        key = key_of_secret(SECRET, frozenset({algorithm}))
    elif algorithm in curves:
        signer = ECKey.generate_key(curves[algorithm])
        key = key_of_jwk(signer.as_dict(private=False))
    else:
        signer = ED if algorithm == "EdDSA" else rsa_key()
        key = key_of_pem(signer.as_pem(private=False))
    token = parse(sign(signer, {"alg": algorithm}))
    assert key.verifies(token)
    others = [key_of_jwk(k.as_dict(private=False)) for k in (rsa_key("other"), ECKey.generate_key("P-256"))]
    others += [
        key_of_secret(b"x" * 64, frozenset(ALGORITHMS)),
        key_of_jwk(OKPKey.generate_key("Ed25519").as_dict(private=False)),
    ]
    assert not any(other.verifies(token) for other in others)


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    """Classic attack: signed with HS256 under the text of the public key (RFC 8725 §2.1)."""
    pem = rsa_key().as_pem(private=False)
    forged = parse(sign(OctKey.import_key(b"x" * 32), {"alg": "HS256"}))
    assert not key_of_pem(pem).verifies(forged)
    confused = parse(sign_by_hand(pem))
    assert not key_of_pem(pem).verifies(confused)
    assert not key_of_jwk(rsa_key().as_dict(private=False)).verifies(confused)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "HS256 ", "rs256", "", "RS1"])
def test_an_unknown_algorithm_verifies_nothing(name: str) -> None:
    token = parse(f"{b64(json.dumps({'alg': name}).encode())}.{b64(b'{}')}.{b64(b'x')}")
    assert not key_of_jwk(rsa_key().as_dict(private=False)).verifies(token)
    assert not key_of_secret(SECRET, frozenset(ALGORITHMS)).verifies(token)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            "a.b.",
            ".b.c",
            " a.b.c",
            "a.b.c\n",
            "a=.b.c",
            "a+.b.c",
            "a?b.c.d",
            "{}.{}.{}",
            "é.b.c",
        ),
        "a.b.c" + "x" * LONGEST_TOKEN,
        *(
            f"{b64(h)}.e30.eA"
            for h in (b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b"{}", b'{"alg":1}', b'{"alg":null}')
        ),
        *(f"{b64(h)}.e30.eA" for h in (b'{"alg":"HS256","kid":1}', b'{"alg":"HS256","crit":["exp"],"exp":1}')),
        *(f"{b64(h)}.e30.eA" for h in (b'{"alg":"HS256","crit":[]}', b'{"alg":"HS256","b64":false}')),
        f"{b64(b'[' * 5000)}.e30.eA",
        *(f"{b64(h)}.e30.eA" for h in (b'{"alg":"none","alg":"HS256"}', b'{"alg":"HS256","x":[{"a":1,"a":2}]}')),
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidToken) as why:
        parse(text)
    assert not text or len(text) < 4 or text not in str(why.value)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: f"{b64(b)}.{b64(b)}.{b64(b)}"))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        token = parse(text)
    except InvalidToken:
        return
    assert not key_of_secret(SECRET, frozenset(ALGORITHMS)).verifies(token)


def test_a_token_brings_no_key_of_its_own() -> None:
    """``jwk``, ``jku``, ``x5u`` and ``x5c`` in a header come from an attacker (RFC 8725 §3.10)."""
    own = {"alg": "RS256", "jwk": rsa_key().as_dict(private=False)}
    head, body = b64(json.dumps(own).encode()), b64(b"{}")
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature = b64(rsa_key().private_key.sign(f"{head}.{body}".encode(), PKCS1v15(), SHA256()))
    token = parse(f"{head}.{body}.{signature}")
    assert not key_of_jwk(rsa_key("other").as_dict(private=False)).verifies(token)


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"use": "enc"},
            {"key_ops": ["encrypt"]},
            {"key_ops": []},
            {"key_ops": "verify"},
            {"alg": "HS256"},
            {"alg": 5},
        ),
        *({"alg": "ES384"}, {"kid": 5}, {"kty": "oct", "k": "AAAA"}, {"kty": None}, {"x": "AAAA"}, {"crv": "P-257"}),
    ],
)
def test_keys_that_may_not_verify_are_refused(change: dict[str, Any]) -> None:
    good = EC.as_dict(private=False)
    assert key_of_jwk(good)
    with pytest.raises(ValueError):
        key_of_jwk({**good, **change})


def test_small_keys_and_short_secrets_are_refused() -> None:
    n = b64((2**1023 + 1).to_bytes(128, "big"))
    with pytest.raises(ValueError):
        key_of_jwk({"kty": "RSA", "n": n, "e": "AQAB"})
    assert not key_of_secret(b"x" * 31, frozenset(ALGORITHMS)).algorithms
    assert key_of_secret(b"x" * 48, frozenset({"HS256", "HS512", "RS256"})).algorithms == {"HS256"}
    with pytest.raises(ValueError):
        verification_key({"kty": "oct", "k": b64(b"short")})


def test_the_algorithm_of_a_key_holds() -> None:
    key = key_of_jwk({**rsa_key().as_dict(private=False), "alg": "PS256"})
    assert key.algorithms == {"PS256"}
    assert not key.verifies(parse(sign(rsa_key(), {"alg": "RS256"})))
    assert key.verifies(parse(sign(rsa_key(), {"alg": "PS256"})))


def test_a_set_is_read_as_far_as_it_can_be() -> None:
    good = {**EC.as_dict(private=False), "kid": "k1"}
    data = json.dumps({"keys": [5, {"kty": "oct", "k": "AAAA"}, {"kty": "XYZ"}, {**good, "use": "enc"}, good]}).encode()
    (key,) = keys_of_set(data)
    assert key.kid == "k1"
    for bad in (b"", b"<html>", b"[]", b"{}", b'{"keys":[]}', b'{"keys":{}}', b'{"keys":[{"kty":"oct","k":"AAAA"}]}'):
        with pytest.raises(ValueError):
            keys_of_set(bad)


def test_a_key_set_that_is_costly_to_parse_is_refused() -> None:
    with cpu_timer() as spent:
        for costly in (b'{"keys":[' + b"[]," * 300_000 + b"1]}", b'{"a":' * 30_000, b"1," * 500_000):
            with pytest.raises(ValueError, match="more than 20000 values"):
                keys_of_set(costly)
        assert spent() < 0.05


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_pem(pem: bytes) -> None:
    with pytest.raises(ValueError):
        key_of_pem(pem)


def test_the_configuration_knows_the_same_algorithms() -> None:
    from typing import get_args

    assert set(get_args(Algorithm)) == set(ALGORITHMS)
    assert CONFIGURED_OCTETS == SECRET_OCTETS
