from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.supervisor.restart_backoff import Backoff


def test_the_cap_doubles_up_to_the_ceiling_and_stays() -> None:
    backoff = Backoff(lambda: 0.999999)
    delays = [backoff.delay_after(0) for _ in range(10)]
    assert [round(d, 2) for d in delays] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_a_healthy_run_resets_the_backoff() -> None:
    backoff = Backoff(lambda: 0.5)
    for _ in range(6):
        backoff.delay_after(9.9)
    assert backoff.cap() == 16
    assert backoff.delay_after(10.0) == 0.25
    assert backoff.failures == 1


@given(st.integers(0, 5000), st.floats(0, 1, exclude_max=True))
def test_never_above_the_ceiling_however_often(failures: int, draw: float) -> None:
    backoff = Backoff(lambda: draw)
    backoff.failures = failures
    assert 0 <= backoff.delay_after(0) <= 30


def test_jitter_is_full_and_even() -> None:
    """The mean of delays with the same cap is half the cap (n = 2000, standard error 0.65 %)."""
    import random

    rng = random.Random(7)
    backoff = Backoff(rng.random)
    draws = []
    for _ in range(2000):
        backoff.failures = 3
        draws.append(backoff.delay_after(0) / 4.0)
    assert abs(sum(draws) / len(draws) - 0.5) < 0.03
    assert min(draws) < 0.01
    assert max(draws) > 0.99


@pytest.mark.parametrize(("base", "ceiling"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_nonsense_is_refused(base: float, ceiling: float) -> None:
    with pytest.raises(ValueError, match="base"):
        Backoff(lambda: 0.5, base=base, ceiling=ceiling)
