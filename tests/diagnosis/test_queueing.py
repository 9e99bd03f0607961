"""Estimates of queueing theory against known values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.diagnosis.queueing import erlang_c, mean_wait, time_with, wanted_servers


def test_known_values() -> None:
    assert erlang_c(1, 0.5) == pytest.approx(0.5)  # M/M/1: the utilisation
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert mean_wait(1, 0.5, 1.0) == pytest.approx(1.0)
    assert mean_wait(2, 1.0, 1.0) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="below"):
        mean_wait(2, 2.0, 1.0)


@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_a_wait_is_a_probability_and_falls_with_more_servers(servers: int, use: float) -> None:
    load = servers * use
    assert 0 <= erlang_c(servers + 1, load) <= erlang_c(servers, load) <= 1


@given(st.integers(1, 100), st.floats(0, 200), st.floats(0, 200), st.floats(0.001, 1))
def test_more_servers_are_never_slower(servers: int, in_flight: float, load: float, time: float) -> None:
    one, two = (time_with(count, in_flight, load, time) for count in (servers, 2 * servers))
    assert time <= two <= one + 1e-9 or load >= servers
    assert wanted_servers(in_flight, load) >= max(in_flight, load)


def test_a_saturated_system_is_closed() -> None:
    assert time_with(4, 12.0, 4.0, 0.02) == pytest.approx(0.06)
