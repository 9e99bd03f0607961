"""The attack scripts run, briefly. How long other clients wait is measured on a machine that does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import needs

SCRIPTS = Path(__file__).parents[2] / "scripts" / "attacks"


ALL = pytest.param((), marks=pytest.mark.long, id="all")


@pytest.mark.slow
@needs("openssl")
@pytest.mark.parametrize("names", [("stalled_body",), ("refused_upload",), ALL], ids="-".join)
def test_slow_clients_cause_no_error_of_another_client(names: tuple[str, ...]) -> None:
    """Neither errors, nor ejections, nor an open breaker: 40 slow clients of a service that has 8 places."""
    options = ["--clients", "160", "--places", "8", "--seconds", "1", "--no-timing"]
    run = subprocess.run(
        [sys.executable, SCRIPTS / "slow_clients.py", *options, *(word for name in names for word in ("--only", name))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(": ok\n") == (len(names) or 10)
