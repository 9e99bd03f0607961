"""What every test shares: the ``needs`` mark, and how property tests run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests import requirements

# The same examples in every run: a failure that comes and goes says nothing about the change under test. No deadline:
# it measures the machine. `make test ARGS=--hypothesis-profile=search` looks for new examples, and many more of them.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            if requirements.find(name) is None:
                requirements.missing(name)
