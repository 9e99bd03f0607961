"""Command line: arguments, output, exit status."""

import json
import os

import pytest

from benchmarks import __main__ as command
from benchmarks.figures import Figure
from benchmarks.peers.base import lacks_modules, lacks_program
from benchmarks.report import write
from benchmarks.rig.server import RigError
from tests.requirements import needs

TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")


def test_without_arguments_everything_is_measured_with_everyone():
    chosen = command.arguments([])
    assert chosen.scenarios == list(command.SCENARIOS)
    assert (chosen.peers, chosen.seconds, chosen.pairs, chosen.json) == (frozenset(), 3, 3, False)


def test_scenarios_and_peers_can_be_narrowed():
    chosen = command.arguments(["forward", "compose", "--peers", "nginx,envoy", "--seconds", "5", "--json"])
    assert chosen.scenarios == ["forward", "compose"]
    assert (chosen.peers, chosen.seconds, chosen.json) == ({"nginx", "envoy"}, 5, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["walk"], "unknown scenario 'walk': choose from forward, compose"),
        (["--peers", "ngnix"], "unknown peer 'ngnix': choose from aiohttp"),
        (["--seconds", "0"], "at least 1"),
        (["--pairs", "0"], "at least 1"),
        (["--starts", "0"], "at least 1"),
    ],
)
def test_wrong_usage_is_explained_and_exits_with_2(argv, said, capsys):
    with pytest.raises(SystemExit) as left:
        command.arguments(argv)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


class Told:
    """Scenario with fixed figures."""

    about = "for this test"
    peers = ("nginx",)

    def __init__(self, name, figures, failure=None):
        self.name = name
        self.figures = figures
        self.failure = failure

    def run(self, bench):
        yield from self.figures
        if self.failure:
            raise self.failure


def main(monkeypatch, tmp_path, scenarios, *argv):
    monkeypatch.setattr(command, "SCENARIOS", {scenario.name: scenario for scenario in scenarios})
    monkeypatch.setattr(write, "save", lambda found: tmp_path / "latest.json")
    return command.main(argv)


def figure(name, errors=0):
    return Figure(name, "10hdr", "us", 24.0, "nginx", 16.0, 1.5, 3, errors)


@TWO_CPUS
@needs("wrk", "taskset")
def test_figures_come_as_lines_of_json_and_nothing_else_on_the_channel(monkeypatch, tmp_path, capsys):
    assert main(monkeypatch, tmp_path, [Told("a", [figure("a"), figure("a")])], "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["ratio"] for line in lines] == [1.5, 1.5]
    assert all(line["errors"] == 0 and "load_average" in line for line in lines)


@TWO_CPUS
@needs("wrk", "taskset")
def test_errors_are_named_and_the_run_fails(monkeypatch, tmp_path, capsys):
    assert main(monkeypatch, tmp_path, [Told("a", [figure("a", errors=3)]), Told("b", [figure("b")])]) == 1
    shown = capsys.readouterr()
    assert "errors: 3 in a: the scenario counts as failed" in shown.err
    assert "| a | 10hdr | us |" in shown.out and "| b | 10hdr | us |" in shown.out


@TWO_CPUS
@needs("wrk", "taskset")
def test_a_failure_is_reported_and_the_next_scenario_still_runs(monkeypatch, tmp_path, capsys):
    failing = Told("a", [figure("a")], failure=RigError("nginx exited with 1"))
    assert main(monkeypatch, tmp_path, [failing, Told("b", [figure("b")])], "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["scenario"] for line in lines] == ["a", "a", "b"]
    assert lines[1]["failure"] == "nginx exited with 1" and lines[1]["errors"] == 1


@TWO_CPUS
@needs("wrk", "taskset")
def test_a_broken_socket_is_a_failure_too(monkeypatch, tmp_path, capsys):
    assert main(monkeypatch, tmp_path, [Told("a", [], failure=ConnectionResetError("gone"))], "--json") == 1
    assert json.loads(capsys.readouterr().out)["failure"] == "gone"


@TWO_CPUS
@needs("wrk", "taskset")
def test_an_interrupt_ends_with_130(monkeypatch, tmp_path):
    class Interrupted(Told):
        def run(self, bench):
            raise KeyboardInterrupt

    assert main(monkeypatch, tmp_path, [Interrupted("a", [])]) == 130


def test_missing_peers_say_what_to_install():
    assert lacks_program("no-such-program", "some-package") == "no-such-program (apt-get install some-package)"
    assert lacks_program("sh", "dash") is None
    assert lacks_modules("no-such-package", "pytest") == "pip install no-such-package"
    assert lacks_modules("pytest") is None
