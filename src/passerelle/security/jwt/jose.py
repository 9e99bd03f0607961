"""Signed tokens (RFC 7515, RFC 7519) and the keys that verify them (RFC 7517), based on joserfc.

This module decides which algorithm may be used with which key, and what counts as a token. joserfc and cryptography
compute the signatures (docs/decisions/009-jwt-library.md). The rules are those of RFC 8725.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key
from joserfc.util import urlsafe_b64decode

HMAC = ("HS256", "HS384", "HS512")
# RFC 8725 §3.1, §3.2: an algorithm determines the type of its key, so a public key is never used as a secret.
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
ALGORITHMS = (*HMAC, *sorted(_RSA, reverse=True), *_EC.values(), "EdDSA")

# RFC 7518 §3.2: a secret is at least as long as the hash (octets); §3.3: an RSA key has 2048 bits or more.
SECRET_OCTETS = {"HS256": 32, "HS384": 48, "HS512": 64}
RSA_BITS = 2048

# Maximum length of a token in octets: well below the 32 KiB allowed for a header section, and well above real tokens.
LONGEST_TOKEN = 8192
LONGEST_KID = 256
# Maximum number of keys read from one set: real sets are smaller, and a token without kid is tried with every key.
MOST_KEYS = 64
# Maximum number of commas and opening brackets in a set: it is parsed on the event loop, at 0.1 us for each value.
MOST_VALUES = 20_000

# Three parts in base64url, the header and the signature not empty, without padding or whitespace (RFC 7515 §2, §7.1).
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")

# Limit up to which a float represents every integer exactly.
_EXACT = 2**53


class InvalidToken(ValueError):
    """Invalid token; the message states the reason and never contains any part of the token."""


class Token(NamedTuple):
    """Token in compact form: its header is parsed, and nothing is verified yet."""

    text: str
    algorithm: str
    kid: str | None


def parse(text: str) -> Token:
    """Parse the header of a token (RFC 7515 §4). Its ``jwk``, ``jku``, ``x5c`` and ``x5u`` are ignored."""
    if len(text) > LONGEST_TOKEN:
        raise InvalidToken(f"token longer than {LONGEST_TOKEN} octets")
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise InvalidToken("malformed token")
    header = _json_object(match[1], "header")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise InvalidToken("token without an algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
        raise InvalidToken("malformed kid")
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidToken("unsupported critical extension")
    return Token(text, algorithm, kid)


def _json_object(part: str, what: str) -> dict[str, Any]:
    try:
        data = urlsafe_b64decode(part.encode("ascii"))
        orjson.loads(data)  # stricter than json: UTF-8, surrogates, NaN
        value = json.loads(data, object_pairs_hook=_members, parse_float=_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidToken(f"malformed {what}")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's members; raise ValueError if a name occurs twice (RFC 7515 §4, RFC 7519 §4)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name")
    return members


def _number(text: str) -> int | float:
    """Parse a number with a fraction or an exponent; return an integer if its value is one, as in ``1e3``."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Silence joserfc's warnings about weak or old algorithms and keys (EdDSA, RFC 9864): this module has its own
    rules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


class VerificationKey:
    """Key with the algorithms that it may be used with."""

    __slots__ = ("_key", "algorithms", "kid", "thumbprint")

    def __init__(self, key: Key, algorithms: frozenset[str], kid: str | None) -> None:
        self._key = key
        self.algorithms = algorithms
        self.kid = kid
        self.thumbprint = key.thumbprint()

    def verifies(self, token: Token) -> bool:
        """Return whether the token's signature is valid under this key."""
        if token.algorithm not in self.algorithms:
            return False
        try:
            with silence_warnings():
                jws.deserialize_compact(token.text, self._key, algorithms=[token.algorithm])
        except (JoseError, ValueError):
            return False
        return True


def claims_of(token: Token) -> dict[str, Any]:
    """Return the claims of a token with a verified signature (RFC 7519 §4)."""
    return _json_object(token.text.split(".")[1], "claims")


def key_of_secret(secret: bytes, algorithms: frozenset[str]) -> VerificationKey:
    """Create a key from a shared secret, for the HMAC algorithms for which the secret is long enough."""
    fitting = frozenset(name for name, least in SECRET_OCTETS.items() if len(secret) >= least)
    with silence_warnings():
        return VerificationKey(OctKey.import_key(secret), algorithms & fitting, None)


def key_of_pem(pem: bytes) -> VerificationKey:
    """Load a public key in PEM (SubjectPublicKeyInfo, or a private key). Raises ValueError for unsupported keys."""
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            with silence_warnings():
                key: Key = kind.import_key(pem)
            return _fitting(key, None, None)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
    raise ValueError("no RSA, EC or Ed25519 key in PEM")


def key_of_jwk(jwk: Mapping[str, Any]) -> VerificationKey:
    """Load a public key of a set (RFC 7517 §4). Raises ValueError if it must not or cannot verify signatures.

    Symmetric keys are rejected, since other parties can read the set; :func:`key_of_secret` is for secrets.
    """
    if jwk.get("kty") not in ("RSA", "EC", "OKP"):
        raise ValueError("no public key")
    return verification_key(jwk)


def verification_key(jwk: Mapping[str, Any]) -> VerificationKey:
    """Load any JWK for signatures; its ``use``, ``key_ops`` and ``alg`` are enforced (RFC 7517 §4.2 to §4.4)."""
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("not a key for signatures")
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
        raise ValueError("malformed kid or alg")
    # Only the members of the public key are used: no private member is kept, and no other member affects parsing.
    members = {name: jwk[name] for name in ("kty", "n", "e", "crv", "x", "y", "k") if name in jwk}
    try:
        with silence_warnings():
            key = import_key(members)
        return _fitting(key, kid, algorithm)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"malformed key: {type(error).__name__}") from None


def _fitting(key: Key, kid: str | None, algorithm: str | None) -> VerificationKey:
    """Return the key with the algorithms that fit it."""
    if isinstance(key, RSAKey):
        if key.public_key.key_size < RSA_BITS:
            raise ValueError(f"RSA key of fewer than {RSA_BITS} bits")
        fitting = _RSA
    elif isinstance(key, ECKey):
        fitting = frozenset({_EC[key.curve_name]}) if key.curve_name in _EC else frozenset()
    elif isinstance(key, OKPKey):
        fitting = frozenset({"EdDSA"}) if key.curve_name in ("Ed25519", "Ed448") else frozenset()
    else:
        secret = key.raw_value if isinstance(key, OctKey) else b""
        fitting = frozenset(name for name, least in SECRET_OCTETS.items() if len(secret) >= least)
    if algorithm is not None:
        fitting &= {algorithm}
    if not fitting:
        raise ValueError("no algorithm fits the key")
    return VerificationKey(key, fitting, kid)


def keys_of_set(data: bytes) -> list[VerificationKey]:
    """Return the keys of a JWK set (RFC 7517 §5) that can verify signatures, and ignore other members.

    Raises ValueError if ``data`` is not a JWK set or has no such key.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    document = orjson.loads(data)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no JWK set")
    keys = []
    for entry in entries[:MOST_KEYS]:
        try:
            keys.append(key_of_jwk(entry if isinstance(entry, dict) else {}))
        except ValueError:
            continue
    if not keys:
        raise ValueError("no key for signatures in the set")
    return keys
