"""The number of calls of passerelle's own functions that a request makes stays within its budget."""

from __future__ import annotations

import re

import pytest

from benchmarks import calls

BUDGETS = {
    "forward": 37,
    "forward, traced but not sampled": 39,
    "forward beside a cached route": 37,
    "hit": 17,
    "composition of two cached parts": 85,
}


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_request_stays_within_its_budget_of_calls(kind):
    counted = calls.count(kind)
    assert 5 < counted.total() <= BUDGETS[kind], "\n".join(f"{times} {place}" for place, times in counted.items())


def test_cached_parts_make_fewer_calls_than_requested_ones():
    cached, requested = calls.count("composition of two cached parts"), calls.count("composition of two parts")
    assert not any(place.startswith("upstream/request.py") for place in cached)
    assert any(place.startswith("upstream/request.py") for place in requested)
    assert cached.total() < requested.total()


def test_only_functions_of_the_package_are_counted():
    for place in calls.count("hit"):
        assert re.match(r"[a-z0-9_]+/.*\.py:\d+ ", place), place


def test_the_program_prints_a_line_for_each_kind_of_request(capsys):
    calls.main(["--where"])
    printed = capsys.readouterr().out
    for kind in calls.KINDS:
        assert re.search(rf"^{kind} +\d+$", printed, re.MULTILINE)
    assert "gateway/gateway.py:" in printed
