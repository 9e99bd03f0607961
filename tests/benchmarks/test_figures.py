"""Arithmetic of pairs, targets and figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Figure, Target, cpu_figure, p99_figure, pooled, rounded, rps_figure
from benchmarks.rig.pairs import FOREIGN_LIMIT, Run, median_ratio
from benchmarks.rig.server import RigError


def run(cpu, requests=1000, seconds=1.0, errors=0, foreign=0.0):
    return Run("x", cpu, requests, seconds, 0, 100.0, 200.0, errors, foreign)


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians():
    # The machine became three times slower after the first pair; the ratio of each pair is still 2.
    assert median_ratio([2.0, 6.0, 6.0], [1.0, 3.0, 3.0]) == 2.0
    # One pair was disturbed on one side only: the median drops it, where a mean would have changed.
    assert median_ratio([2.0, 2.0, 50.0], [1.0, 1.0, 1.0]) == 2.0


@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(0.5, 2.0), st.floats(0.1, 10)), min_size=1, max_size=9))
def test_a_drift_common_to_both_sides_of_a_pair_changes_nothing(rows):
    ours = [base * factor for base, factor, _ in rows]
    theirs = [base for base, _, _ in rows]
    drifted = median_ratio(
        [value * drift for value, (_, _, drift) in zip(ours, rows, strict=True)],
        [value * drift for value, (_, _, drift) in zip(theirs, rows, strict=True)],
    )
    assert drifted == pytest.approx(median_ratio(ours, theirs))


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError):
        median_ratio([1.0, 2.0], [1.0])
    with pytest.raises(RigError, match="too short"):
        median_ratio([1.0], [0.0])


def test_microseconds_a_request_and_requests_a_second():
    one = run(cpu=0.03, requests=2000, seconds=4.0)
    assert one.us == pytest.approx(15.0)
    assert one.rps == 500.0
    assert not one.noisy and run(1, foreign=FOREIGN_LIMIT + 0.01).noisy


def test_a_cpu_figure_holds_medians_of_both_and_the_errors_of_all():
    ours = [run(0.02), run(0.03, errors=2), run(0.04, foreign=1.0)]
    theirs = [run(0.01), run(0.01), run(0.01, errors=1)]
    line = cpu_figure("forward", "10hdr", ours, "nginx", theirs, Target(1.6)).line()
    assert (line["ours_us"], line["peer"], line["peer_us"], line["ratio"]) == (30.0, "nginx", 10.0, 3.0)
    assert (line["pairs"], line["errors"], line["noisy"], line["met"]) == (3, 3, True, False)
    assert line["ours_rps"] == 1000.0 and line["peer_p99_us"] == 200.0


def test_a_figure_of_rates_shows_the_cpu_beside_it():
    line = rps_figure("crossing", "memory", [run(0.1, 9000)], "flask", [run(1.0, 300)], Target(20, False)).line()
    assert (line["ours_rps"], line["peer_rps"], line["ratio"], line["met"]) == (9000.0, 300.0, 30.0, True)
    assert line["peer_us"] == pytest.approx(1e6 / 300, rel=1e-3)


def test_a_figure_without_a_peer_judges_nothing():
    line = cpu_figure("forward", "10hdr", [run(0.02)], target=Target(1.6)).line()
    assert line["peer"] is None and line["peer_us"] is None and line["ratio"] is None and line["met"] is None


@pytest.mark.parametrize(
    ("target", "value", "met", "text"),
    [
        (Target(1.6), 1.6, True, "<= 1.6 x"),
        (Target(1.6), 1.61, False, "<= 1.6 x"),
        (Target(20, at_most=False), 19.9, False, ">= 20 x"),
        (Target(20, at_most=False), 20, True, ">= 20 x"),
        (Target(6000, absolute=True), 5999, True, "<= 6000"),
    ],
)
def test_targets(target, value, met, text):
    assert target.met(value) is met
    assert str(target) == text


def test_an_absolute_target_judges_our_value_not_the_ratio():
    figure = Figure(
        "connections", "answered", "rss_bytes", 7000.0, "nginx", 10_000.0, 0.7, target=Target(6000, absolute=True)
    )
    assert figure.met is False


def test_figures_are_rounded_for_reading():
    assert [rounded(v) for v in (0.123456, 15.123, 9876.5, 123456.7, None, True, 7)] == [
        0.1235,
        15.12,
        9876.0,
        123457,
        None,
        True,
        7,
    ]


def test_a_latency_is_compared_like_the_others():
    line = p99_figure("crossing-cache", "hot", [run(0.1, 9000)], "peer", [run(1.0, 300)], Target(1)).line()
    assert {"ours_p99_us", "peer_p99_us", "ratio", "ours_rps"} <= line.keys()
    assert line["met"] is (line["ratio"] <= 1)


def test_several_starts_are_pooled_by_their_medians_and_keep_every_error():
    def figure(ours: float, ratio: float | None, variant: str = "a", errors: int = 0) -> Figure:
        return Figure("s", variant, "us", ours, "p", None if ratio is None else ours / ratio, ratio, 3, errors)

    starts = [[figure(10, 1.0), figure(7, 2.0, "b")], [figure(30, 1.6, errors=2)], [figure(12, 1.2)]]
    first, second = pooled(starts)
    assert (first.variant, first.ours, first.ratio, first.pairs, first.errors) == ("a", 12, 1.2, 9, 2)
    assert (second.variant, second.ours, second.pairs) == ("b", 7, 3)
    assert pooled([[figure(5, None)]])[0].ratio is None
