"""Accepted values of fields and ids, for generated inputs."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopkit import fields
from shopkit.paging import LARGEST_ID, number


@given(st.integers(0, 9_999_999_999))
def test_every_price_in_cents_is_accepted_exactly(cents: int) -> None:
    assert fields.price(cents / 100) == Decimal(cents) / 100


@given(st.floats())
def test_a_price_has_two_decimals_or_is_refused(value: float) -> None:
    try:
        accepted = fields.price(value)
    except ValueError:
        return
    assert float(accepted) == value
    assert accepted == round(accepted, 2)
    assert 0 <= accepted <= Decimal("99999999.99")
    assert not accepted.is_signed()


@given(st.one_of(st.none(), st.booleans(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.none())))
def test_no_other_json_value_is_a_price(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        fields.price(value)


@given(st.integers(1, LARGEST_ID))
def test_every_id_is_read_back(identity: int) -> None:
    assert number(str(identity)) == identity


@given(st.text())
def test_an_id_has_one_spelling(text: str) -> None:
    identity = number(text)
    assert identity is None or (str(identity) == text and 0 < identity <= LARGEST_ID)


@given(st.integers(LARGEST_ID + 1))
def test_what_no_database_holds_is_no_id(identity: int) -> None:
    assert number(str(identity)) is None


@given(st.text())
def test_texts_are_kept_as_they_are_or_refused(text: str) -> None:
    for check in (fields.username, fields.name):
        try:
            kept = check(text)
        except ValueError:
            continue
        assert kept == text
        kept.encode()  # a lone surrogate would fail here, and in the database
        assert "\0" not in kept


@given(st.text(), st.text())
def test_an_accepted_address_is_lower_case_ascii(local: str, domain: str) -> None:
    for text in (f"{local}@{domain}", f"{local}@{domain}.example", local):
        try:
            kept = fields.email(text)
        except ValueError:
            continue
        assert kept.isascii() and kept == kept.lower() and kept.count("@") == 1 and len(kept) <= 254
