"""The console report: lines about health, and the bound on their rate."""

from __future__ import annotations

import os
from pathlib import Path

from passerelle.balancing.health import HealthChange, HealthEvent, HealthState
from passerelle.supervisor.line_budget import Admitted, LineBudget
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport

DOWN = HealthChange("s-1@127.0.0.1:1", HealthState.UP, HealthEvent.FAILED, HealthState.DOWN)


def test_a_thousand_targets_that_go_down_together_give_a_bounded_number_of_lines(tmp_path: Path) -> None:
    now = 100.0
    path = tmp_path / "output"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    output = Output(fd)
    report = ConsoleReport(output, terminal=False, colour=False, clock=lambda: now)
    report.start("1", "gateway.yaml", [], "http://127.0.0.1:8080", None)
    for number in range(1000):
        report.health(f"s-{number}", DOWN, "connection refused")
    now += 30.0
    report.health("s-1", DOWN._replace(before=HealthState.DOWN, after=HealthState.UP), "")
    output.close()
    os.close(fd)
    lines = [line.partition("| ")[2] for line in path.read_text().splitlines() if "| " in line]
    assert lines[0] == "s-0 is down: connection refused"
    assert lines[19:] == [
        "s-19 is down: connection refused",
        "further changes of health are left out for a while; see passerelle status",
        "s-1 is up again",
    ]


def test_a_budget_that_is_spent_admits_nothing_until_it_is_half_full() -> None:
    budget = LineBudget(4, 1.0)
    assert [budget.admit(10.0) for _ in range(5)] == [Admitted.YES] * 3 + [Admitted.LAST, Admitted.NO]
    assert budget.admit(11.9) is Admitted.NO
    assert budget.admit(12.1) is Admitted.YES
