"""Two gateways, a Redis and a load in separate processes: the measurement produces its figures."""

import asyncio

import pytest

from benchmarks.shared_cache import ROUNDS, run
from tests.requirements import needs


@needs("redis-server")
@pytest.mark.slow
def test_both_gateways_invalidate_and_no_request_fails_without_redis():
    lines = asyncio.run(run(3.0))
    assert [line["what"] for line in lines] == [
        *("seen after tag", "seen after path", "seen after PUT", "Redis killed and started twice"),
        *("seen after tag, Redis back", "seen after path, Redis back", "seen after PUT, Redis back"),
    ]
    for line in lines:
        if "failed" in line:
            assert line["failed"] == 0 < line["requests"]
        else:
            assert line["times"] == ROUNDS
            assert 0 <= line["median_ms"] <= line["most_ms"]
