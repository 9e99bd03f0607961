"""CPU times from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from passerelle.system import cpu
from tests.supervisor.helpers import until_now

# A child that uses the CPU until it is ended; its parent waits for it.
BURN = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


def test_the_time_of_the_machine_increases() -> None:
    before = cpu.machine_time()
    assert before is not None and 0 < before.busy <= before.total

    def later() -> bool:
        now = cpu.machine_time()
        return now is not None and now.total > before.total

    until_now(later)


def test_the_time_of_a_process_includes_its_descendants() -> None:
    process = subprocess.Popen([sys.executable, "-c", BURN], start_new_session=True)
    try:
        until_now(lambda: cpu.tree_seconds([process.pid]) > 0.3, 30)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert cpu.tree_seconds([process.pid]) == 0.0


def test_a_process_that_is_listed_twice_counts_once() -> None:
    begun = time.process_time()
    while time.process_time() - begun < 0.1:
        pass
    once = cpu.tree_seconds([os.getpid()])
    assert once <= cpu.tree_seconds([os.getpid(), os.getpid()]) < once * 1.5
