"""Identities as fields, and authorization of consumers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Kind
from passerelle.security.authorization import Require
from passerelle.security.guard import RequestRefused
from passerelle.security.identity import LONGEST, Identity, value_text
from tests.security.ratelimit.test_gcra import asked


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v, max_size=4), max_leaves=6)
)
def test_no_claim_can_break_out_of_its_field(value: Any) -> None:
    text = value_text(value)
    assert re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", text), text


def test_values_are_readable_where_they_can_be() -> None:
    assert value_text("alice@example.com") == "alice@example.com"
    assert value_text("a b") == "a b"
    assert value_text(["read", "write"]) == "read write"
    assert value_text(["a b", "c"]) == '["a b","c"]'
    assert value_text({"a": [1, True]}) == '{"a":[1,true]}'
    assert value_text("é\r\nX-Evil: 1") == "%C3%A9%0D%0AX-Evil: 1"
    assert value_text("100%") == "100%25"
    assert value_text(" a") == "%20a"


def test_what_would_be_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="X-Consumer"):
        Identity("x" * (LONGEST + 1), (), "jwt")


def may(guard: Require, identity: Identity | None) -> bool:
    request = asked()
    request.identity = identity
    try:
        guard(request)
    except RequestRefused as refused:
        return refused.kind is not Kind.FORBIDDEN
    return True


ALICE = Identity("alice", ["a", "b"], "jwt", claims={"role": "admin", "groups": ["x", "y"], "level": 1, "none": None})


@pytest.mark.parametrize(
    ("scopes", "consumers", "claims", "allowed"),
    [
        ([], None, {}, True),
        (["a"], None, {}, True),
        (["a", "b"], ["alice", "bob"], {"role": ["admin", "owner"]}, True),
        (["a", "c"], None, {}, False),
        ([], ["bob"], {}, False),
        ([], ["Alice"], {}, False),
        ([], None, {"role": ["customer"]}, False),
        ([], None, {"groups": ["y"]}, True),
        ([], None, {"groups": ["z"]}, False),
        ([], None, {"level": [1]}, True),
        ([], None, {"level": [True]}, False),
        ([], None, {"level": ["1"]}, False),
        ([], None, {"none": [None]}, True),
        ([], None, {"missing": [None]}, False),
        ([], None, {"role": ["admin"], "missing": ["x"]}, False),
    ],
)
def test_everything_that_is_required_must_be_there(
    scopes: list[str], consumers: list[str] | None, claims: dict[str, list[Any]], allowed: bool
) -> None:
    assert may(Require(scopes, consumers, claims), ALICE) is allowed


def test_an_empty_rule_refuses_requests_without_identity() -> None:
    assert not may(Require([], None, {}), None)


def test_the_answer_does_not_say_what_is_missing() -> None:
    request = asked()
    request.identity = ALICE
    with pytest.raises(RequestRefused) as refused:
        Require(["secret:scope"], None, {})(request)
    assert "secret:scope" in refused.value.detail
    assert not any(b"secret" in value for _, value in refused.value.fields)
    assert refused.value.public == ""
