import pytest

from passerelle.balancing.instance import Instance, acquire, release
from passerelle.balancing.registry import CATALOG, make


@pytest.mark.parametrize("name", CATALOG)
def test_every_name_makes_a_policy_that_picks(name: str) -> None:
    node = make(name, [Instance("a"), Instance("b")], clock=lambda: 0.0)
    for _ in range(10):
        chosen = node.pick(key=b"k")
        assert chosen in node.members
        acquire(chosen)
        release(chosen, True, 0.1)
        assert chosen.load <= 0.0  # nothing in flight; the logarithm of a latency under a second


def test_a_name_that_is_none() -> None:
    with pytest.raises(KeyError):
        make("fastest")
