"""Scenario ``many``, and the number of gateways for one Redis that is computed from its results."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.redis import Redis, keys_of, keyspace_hits
from benchmarks.rig import redis_load
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError
from benchmarks.scenarios import many
from benchmarks.simulation import shared_redis, sizing
from benchmarks.simulation.shared_redis import (
    BOTH,
    CACHE,
    LIMITS,
    NETWORK,
    Use,
    costs_of,
    cpu_of_redis,
    most_gateways,
    rate_of_worker,
    simulate,
)
from tests.requirements import needs

_SYSTEMS = (("one worker", 9000.0, None, None), ("two workers", 13500.0, "one worker", 1.5))
SCENARIO = {
    "date": "2026-11-30",
    "figures": [
        *(
            {"variant": name, "ours_rps": rps, "peer": peer, "ratio": ratio, "noisy": False, "errors": 0}
            | {f"{kind}_share": 0.25 for kind in ("gateway", "upstream", "load")}
            for name, rps, peer, ratio in (
                ("one worker", 9000.0, None, None),
                ("two workers", 13500.0, "one worker", 1.5),
            )
        ),
        {"variant": "worker: forward", "ours_us": 80.0, "noisy": False},
        {"variant": "worker: limit", "ours_us": 100.0, "redis_us": 6.0, "noisy": False},
        {"variant": "worker: found in redis", "ours_us": 280.0, "redis_us": 9.0, "noisy": False},
        {"variant": "worker: stored in redis", "ours_us": 480.0, "redis_us": 30.0, "noisy": False},
        {"variant": "redis: limit, 1 in flight", "ours_us": 10.0, "noisy": False},
        {"variant": "redis: limit, 16 in flight", "ours_us": 5.5, "noisy": False},
        {"variant": "redis: invalidation, 0 workers", "ours_us": 40.0, "noisy": False},
        {"variant": "redis: invalidation, 100 workers", "ours_us": 240.0, "noisy": False},
    ],
}
COSTS = costs_of(SCENARIO)
RESULTS = {
    "machine": {"cpu": "one", "cpus": 2, "memory_gib": 1, "kernel": "6", "python": "3.11"},
    "scenarios": {"many": SCENARIO},
}


HEADS = ("| system |", "| µs of CPU |", "| use |", "| what |")


@pytest.fixture(autouse=True)
def few_requests(monkeypatch):
    monkeypatch.setattr(shared_redis, "REQUESTS", 5000)


def test_costs_are_read_from_the_results():
    assert COSTS.limit == pytest.approx(10e-6)
    assert COSTS.turn == pytest.approx(4.8e-6)
    assert (COSTS.invalidation, COSTS.receiver) == (pytest.approx(40e-6), pytest.approx(2e-6))
    assert rate_of_worker(COSTS, LIMITS) == pytest.approx(5000)


def test_results_without_a_figure_are_refused():
    for index, line in enumerate(SCENARIO["figures"]):
        if not line["variant"].startswith(("one", "two")):
            rest = [*SCENARIO["figures"][:index], *SCENARIO["figures"][index + 1 :]]
            with pytest.raises(ValueError, match="the results of scenario many have no"):
                costs_of({"figures": rest})


def test_redis_becomes_the_limit_where_its_cpu_is_used_up():
    assert cpu_of_redis(COSTS, LIMITS, 10, 1) == pytest.approx(10 * 5000 * 10e-6)
    assert most_gateways(COSTS, LIMITS, 1) == 14
    assert most_gateways(COSTS, LIMITS, 4) == 3
    for use in (LIMITS, CACHE, BOTH):
        most = most_gateways(COSTS, use, 2)
        assert cpu_of_redis(COSTS, use, most, 2) <= 0.7 < cpu_of_redis(COSTS, use, most + 1, 2)


def test_invalidations_grow_with_the_square_of_the_gateways():
    only = Use("only", invalidations=1.0)
    free = replace(COSTS, invalidation=0.0)
    assert cpu_of_redis(free, only, 20, 4) == pytest.approx(4 * cpu_of_redis(free, only, 10, 4))


def test_leases_and_checks_that_are_sent_together_cost_less():
    alone = cpu_of_redis(COSTS, LIMITS, 20, 1)
    assert cpu_of_redis(COSTS, replace(LIMITS, pause=0.001), 20, 1) < alone
    assert cpu_of_redis(COSTS, replace(LIMITS, lease=10), 20, 1) < alone / 5


def test_the_simulation_agrees_with_the_sum_while_redis_is_idle_and_has_no_result_beyond_it():
    idle = simulate(COSTS, LIMITS, 3, 1)
    assert idle.busy == pytest.approx(idle.cpu, rel=0.1)
    assert 2 * NETWORK + 0.999 * COSTS.limit <= idle.p50 <= 2 * NETWORK + 2 * COSTS.limit
    busy = simulate(COSTS, LIMITS, 19, 1)
    assert busy.p99 > idle.p99
    assert busy.busy < busy.cpu  # commands share turns
    assert simulate(COSTS, LIMITS, 100, 4).p99 is None
    assert simulate(COSTS, CACHE, 3, 1).p99 is None


def test_the_command_prints_the_tables_that_the_page_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sizing, "GATEWAYS", (3, 100))
    results = tmp_path / "latest.json"
    assert sizing.main(["--results", str(results)]) == 1
    assert "run python -m benchmarks many" in capsys.readouterr().err
    results.write_text(json.dumps(RESULTS))
    assert sizing.main(["--results", str(results)]) == 0
    text = capsys.readouterr().out
    assert "| two workers | 13,500 | 1.50 × one worker | 25 % |  | 25 % | 25 % |" in text
    assert "| a limit on every request | 3 | 1 | 15,000 | 15 % |" in text
    assert "| one Redis for both | configuration |" in text
    page = (Path(__file__).parents[2] / sizing.PAGE).read_text()
    heads = [line for line in text.splitlines() if line.startswith("| ") and line.startswith(HEADS)]
    assert len(heads) == len(HEADS)
    assert all(head in page for head in heads), "the page has other tables: run the command with --write"


def test_a_run_in_which_redis_was_not_used_as_meant_fails():
    part = many.Part(many.FOUND, None, {})
    found = many.Taken(1000.0, 1000, 1.0, 0, {}, 0.0, hits=1000)
    many._check_hits(part, [found])
    with pytest.raises(RigError, match=r"Redis had 0\.10 keys for a request"):
        many._check_hits(part, [replace(found, hits=100)])
    with pytest.raises(RigError, match="stored in redis: Redis had"):
        many._check_hits(replace(part, name=many.STORING), [found])


@needs("redis-server", "wrk", "taskset")
def test_operations_of_the_gateway_use_cpu_time_of_redis():
    with Rig.on_this_machine() as rig:
        server = Redis().start(rig, under_test=True)
        limit = asyncio.run(redis_load.limit_checks(server, 4, 0.1))
        assert limit.us > 0
        assert limit.operations > 0
        assert 0 < keys_of(server, 0) <= redis_load.CLIENTS + 1
        assert keyspace_hits(server) >= 0
        change = asyncio.run(redis_load.invalidations(server, 2, 0.1))
        assert change.operations > 0
