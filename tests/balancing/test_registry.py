import pytest

from passerelle.balancing.instance import Instance, acquire, release
from passerelle.balancing.registry import REGISTRY, make
from passerelle.cli.proxy import proxy
from passerelle.config.models.balance import POLICIES


@pytest.mark.parametrize("name", REGISTRY)
def test_every_name_makes_a_policy_that_picks(name: str) -> None:
    node = make(name, [Instance("a"), Instance("b")], clock=lambda: 0.0)
    for _ in range(10):
        chosen = node.pick(key=b"k")
        assert chosen in node.members
        acquire(chosen)
        release(chosen, True, 0.1)
        assert chosen.load <= 0.0  # nothing in flight; the logarithm of a latency under a second


def test_the_configuration_accepts_exactly_the_registered_policies() -> None:
    assert set(POLICIES) == REGISTRY.keys()


def test_the_command_line_offers_every_policy_that_needs_no_key() -> None:
    (option,) = (option for option in proxy.params if option.name == "balance")
    assert {*option.type.choices, "hash"} == REGISTRY.keys()


def test_a_name_that_is_none() -> None:
    with pytest.raises(KeyError):
        make("fastest")
