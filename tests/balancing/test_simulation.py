"""The simulation against queueing theory, and its results for the policies at small sizes."""

import math
import random
from pathlib import Path

import pytest

from benchmarks.simulation import spread, storm, tables
from benchmarks.simulation.events import Loop
from benchmarks.simulation.fleet import WORK, WORKERS, Server, capacity, fleet, percentile


def erlang_c(workers: int, load: float) -> float:
    """Return the probability that a request waits in an M/M/c queue at ``load`` (0 to 1) of its capacity."""
    offered = workers * load
    terms = [offered**k / math.factorial(k) for k in range(workers)]
    last = offered**workers / math.factorial(workers) / (1 - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_is_an_m_m_c_queue(load: float) -> None:
    chance = random.Random(1)
    server = Server(1.0, "")
    rate = WORKERS / WORK * load
    now = waited = 0.0
    number = 200_000
    for _ in range(number):
        now += chance.expovariate(rate)
        waited += server.backlog(now)
        server.serve(now, chance.expovariate(1 / WORK))
    expected = erlang_c(WORKERS, load) * WORK / WORKERS / (1 - load)
    # successive waits are correlated; 5 % is over 5 standard deviations of runs with other seeds
    assert waited / number == pytest.approx(expected, rel=0.05)


def test_events_are_in_order_of_time_then_of_scheduling() -> None:
    loop = Loop()
    seen: list[object] = []
    loop.at(2.0, seen.append, "c")
    loop.at(1.0, seen.append, "a")
    loop.at(1.0, seen.append, "b")
    loop.at(1.0, lambda: loop.at(0.0, lambda: seen.append(loop.now)))
    loop.run(until=1.5)
    assert seen == ["a", "b", 1.0]
    loop.run()
    assert (seen[-1], loop.clock()) == ("c", 2.0)


def test_a_frozen_server_keeps_its_queue() -> None:
    server = Server(2.0, "")
    assert server.serve(0.0, 1.0) == 0.5
    server.freeze(10.0)
    assert server.backlog(1.0) == 9.0
    assert [server.serve(1.0, 1.0) for _ in range(5)] == [10.5] * 4 + [11.0]


def test_a_fifth_of_the_fleet_is_three_times_slower() -> None:
    servers = fleet(1000, random.Random(1))
    slow = [server for server in servers if server.zone == "slow"]
    assert len(slow) == 200
    assert capacity(slow) / capacity(servers) == pytest.approx(0.077, abs=0.01)


def test_percentiles() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, part) for part in (0.0001, 0.01, 0.5, 0.99, 0.991, 1.0)] == [1, 1, 50, 99, 100, 100]


def test_the_same_seed_gives_the_same_results() -> None:
    assert spread.simulate("ewma", 10, 2000) == spread.simulate("ewma", 10, 2000)
    assert spread.simulate("ewma", 10, 2000) != spread.simulate("ewma", 10, 2000, seed=2)


def test_feedback_protects_the_slow_zone_from_overload() -> None:
    """Round robin overloads the slow zone; policies with load or latency do not, for any of three seeds."""
    for seed in (1, 2, 3):
        blind = spread.simulate("round_robin", 20, 8000, seed)
        assert blind.slow_zone == pytest.approx(0.2, abs=0.02)
        for policy in ("least_inflight", "p2c", "ewma", "hash"):
            seeing = spread.simulate(policy, 20, 8000, seed)
            assert seeing.slow_zone < 0.14
            assert seeing.p99 < blind.p99 / 3


@pytest.fixture(scope="module")
def storms() -> dict[str, storm.Storm]:
    names = {"no retries", "3 attempts", "3 attempts, budget", "3 attempts, budget, bound, ejection"}
    return {variant.name: storm.simulate(variant, instances=4) for variant in storm.VARIANTS if variant.name in names}


@pytest.mark.slow
def test_a_retry_storm_ends_with_a_budget_and_not_without(storms: dict[str, storm.Storm]) -> None:
    assert storms["no retries"].recovered is not None
    assert storms["3 attempts"].recovered is None
    assert storms["3 attempts"].failed_after > 0.9
    assert storms["3 attempts, budget"].recovered is not None
    assert storms["3 attempts, budget"].most_load < 1.2


@pytest.mark.slow
def test_all_protections_together_are_better_than_no_retries(storms: dict[str, storm.Storm]) -> None:
    defended = storms["3 attempts, budget, bound, ejection"]
    assert defended.failed < storms["no retries"].failed
    assert defended.recovered is not None
    assert defended.recovered <= 5.0


def test_tables_are_markdown_between_marks() -> None:
    results = [spread.simulate("p2c", 5, 1000)]
    table = tables.spread_table(results)
    assert [line.count("|") for line in table.splitlines()] == [7, 7, 7]
    more = [spread.simulate(policy, 5, 500, gateways=number) for policy in ("p2c", "ewma") for number in (1, 8)]
    assert [line.split("|")[1].strip() for line in tables.gateways_table(more).splitlines()] == [
        "p99 ms",
        "---",
        "`p2c`",
        "`ewma`",
    ]
    never = storm.Storm("x", 0.5, 1.0, 2.0, None, (), ())
    assert tables.storm_table([never]).splitlines()[2] == "| x | 50.0 % | 100.0 % | 2.00 | never |"
    page = "a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n"
    assert tables.put(page, "t", "new") == "a\n<!-- t: begin -->\nnew\n<!-- t: end -->\nb\n"
    with pytest.raises(ValueError, match="no markers"):
        tables.put(page, "u", "new")


@pytest.mark.long
@pytest.mark.slow
def test_plots_are_svg_and_reproducible(tmp_path: Path) -> None:
    from benchmarks.simulation import plots

    results = [spread.simulate(policy, size, 1000) for policy in spread.POLICIES for size in (5, 10)]
    one = storm.Storm("x", 0.0, 0.0, 1.0, 0.0, (1.0, 0.5), (0.6, 0.7))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        plots.spread_plot(results, tmp_path / name / "spread.svg")
        plots.tail_plot(results, tmp_path / name / "tail.svg")
        plots.storm_plot([one], tmp_path / name / "storm.svg")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        assert path.read_text(encoding="utf-8").rstrip().endswith("</svg>")
