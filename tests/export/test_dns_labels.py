"""Names for containers: labels without collisions, whatever the names are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from passerelle.export.dns_labels import LONGEST, labels

NAMES = st.one_of(
    st.text(max_size=80),
    st.text("aB-_.ü1", max_size=70),
    st.sampled_from(
        ["cart-api", "cart_api", "Cart_Api", "cart.api", "x" * 63, "x" * 64, "x" * 70, "redis", "", "-", "1"]
    ),
)


@given(st.lists(NAMES, max_size=12, unique=True), st.sets(st.sampled_from(["redis", "cart-api", "x"])))
def test_labels_are_valid_and_differ(names: list[str], taken: set[str]) -> None:
    found = labels(names, taken)
    assert list(found) == names
    assert len(set(found.values()) | taken) == len(names) + len(taken)
    for label in found.values():
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", label)
        assert len(label) <= LONGEST


@given(
    st.lists(NAMES, max_size=12, unique=True).flatmap(lambda names: st.tuples(st.just(names), st.permutations(names)))
)
def test_labels_do_not_depend_on_the_order_of_names(names: tuple[list[str], list[str]]) -> None:
    assert labels(names[0]) == labels(names[1])


def test_names_that_are_labels_stay() -> None:
    found = labels(["cart_api", "cart-api", "Ünï", "a" * 70, "redis", "x1", "9to5"], {"redis"})
    assert found["cart-api"] == "cart-api"
    assert found["x1"] == "x1"
    assert found["Ünï"] == "uni"
    assert found["9to5"] == "x-9to5"
    assert re.fullmatch(r"cart-api-[0-9a-f]{8}", found["cart_api"])
    assert re.fullmatch(r"redis-[0-9a-f]{8}", found["redis"])
    assert re.fullmatch(r"a{54}-[0-9a-f]{8}", found["a" * 70])
