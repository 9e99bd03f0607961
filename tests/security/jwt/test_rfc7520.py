"""Signatures of RFC 7520 §4.1 to §4.4: one text under four algorithms, as printed in the RFC."""

from __future__ import annotations

import base64
import json
from itertools import product
from typing import Any

import pytest

from tests.security.jwt.vectors import verify

PAYLOAD = (
    "It\u2019s a dangerous business, Frodo, going out your door. You step onto the road, and if you don't keep "
    "your feet, there\u2019s no knowing where you might be swept off to."
)
# Figures 3, 1 and 5, without the private members.
RSA = {
    "kty": "RSA",
    "kid": "bilbo.baggins@hobbiton.example",
    "use": "sig",
    "n": (
        "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRB"
        "SFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD"
        "1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_"
        "qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"
    ),
    "e": "AQAB",
}
EC = {
    "kty": "EC",
    "kid": "bilbo.baggins@hobbiton.example",
    "use": "sig",
    "crv": "P-521",
    "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
    "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
}
OCT = {
    "kty": "oct",
    "kid": "018c0ae5-4d9b-471b-bfd6-eef314bc7037",
    "use": "sig",
    "alg": "HS256",
    "k": "hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg",
}
# Algorithm, key, signature (figures 13 to 34).
EXAMPLES: list[tuple[str, dict[str, Any], str]] = [
    (
        "RS256",
        RSA,
        (
            "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi8"
            "4wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocS"
            "adnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJu"
            "shZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg"
        ),
    ),
    (
        "PS384",
        RSA,
        (
            "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItl"
            "lVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0"
            "TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0"
            "uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"
        ),
    ),
    (
        "ES512",
        EC,
        (
            "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_"
            "sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2"
        ),
    ),
    (
        "HS256",
        OCT,
        "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
    ),
]


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def token(algorithm: str, key: dict[str, Any], signature: str, payload: str = PAYLOAD) -> str:
    header = json.dumps({"alg": algorithm, "kid": key["kid"]}, separators=(",", ":"))
    return f"{b64(header)}.{b64(payload)}.{signature}"


def holds(key: dict[str, Any], text: str) -> bool:
    try:
        return verify(key, text)
    except ValueError:
        return False


@pytest.mark.parametrize(("algorithm", "key", "signature"), EXAMPLES)
def test_the_signature_holds_for_its_text_and_for_no_other(algorithm: str, key: dict[str, Any], signature: str) -> None:
    assert holds(key, token(algorithm, key, signature))
    assert not holds(key, token(algorithm, key, signature, PAYLOAD + " "))
    assert not holds(key, token(algorithm, key, "A" * len(signature)))
    assert not holds({**key, "use": "enc"}, token(algorithm, key, signature))


@pytest.mark.parametrize(("one", "other"), [pair for pair in product(EXAMPLES, EXAMPLES) if pair[0] is not pair[1]])
def test_it_holds_under_no_other_algorithm_and_key(
    one: tuple[str, dict[str, Any], str], other: tuple[str, dict[str, Any], str]
) -> None:
    algorithm, key, signature = one
    assert not holds(key, token(other[0], key, signature))
    if other[1] is not key:
        assert not holds(other[1], token(algorithm, key, signature))
    # The declared use of a key applies, even if its type would be suitable.
    assert not holds({**key, "alg": other[0]}, token(algorithm, key, signature))
