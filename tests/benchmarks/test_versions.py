"""The comparison of two versions: the change of the ratio to the peer, and wrong usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rig.slices import Comparison
from benchmarks.versions import main, summarized


def comparison(difference: float, first: float, errors: int = 0, noisy: bool = False) -> Comparison:
    return Comparison(difference, difference - 1, difference + 2, first, first + difference, 8, errors, noisy)


def test_the_change_of_the_ratio_is_the_difference_over_the_cost_of_the_peer() -> None:
    starts = [(comparison(-2.0, 60.0), comparison(25.0, 40.0)), (comparison(-4.0, 62.0, 1), comparison(25.0, 40.0))]
    assert summarized("forward", "varying", starts) == {
        "scenario": "forward",
        "variant": "varying",
        "other_us": 61.0,
        "this_us": 58.0,
        "difference_us": -3.0,
        "low_us": -5.0,
        "high_us": 0.0,
        "peer_us": 40.0,
        "ratio_change": -0.075,
        "starts": 2,
        "pairs": 16,
        "errors": 1,
        "noisy": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: PROGRAM"),
        (["{program}", "nothing"], "unknown scenario 'nothing': choose from forward, hit, compose, policy"),
        (["{program}", "--pairs", "0"], "--pairs and --starts must be at least 1"),
        (["missing"], "missing is not a file"),
    ],
)
def test_wrong_usage_is_reported(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "passerelle"
    program.touch()
    with pytest.raises(SystemExit) as ended:
        main([each.format(program=program) for each in arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
