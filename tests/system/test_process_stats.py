"""What processes use, read from /proc, against processes whose use is known."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from passerelle.system import process_stats
from passerelle.system.process_stats import ProcessUse, UseRates
from tests.support.wire import wait_until


def test_the_use_of_this_process() -> None:
    before = process_stats.read(os.getpid())
    assert before is not None
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    reader, writer = os.pipe()
    after = process_stats.read(os.getpid())
    os.close(reader)
    os.close(writer)
    event.set()
    thread.join()
    assert after is not None
    assert after.threads == before.threads + 1
    assert after.files == before.files + 2
    assert after.cpu >= before.cpu > 0
    assert after.memory > 1_000_000
    assert after.switches > 0


def test_a_tree_includes_descendants() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
        wait_until(lambda: len(process_stats.linux.children().get(process.pid, [])) == 1, "a grandchild")
        alone, tree = process_stats.read(process.pid), process_stats.read_trees([process.pid])[process.pid]
        assert alone is not None
        assert tree.threads == alone.threads + 1
        assert tree.memory > alone.memory
        process.communicate(b"\n")
    assert process_stats.read(process.pid) is None
    assert process_stats.read_trees([process.pid]) == {}


def test_the_cpu_time_of_a_tree_includes_that_of_descendants() -> None:
    # A child that uses the CPU until it is ended; its parent waits for it.
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", burn], start_new_session=True)

    def used() -> float:
        tree = process_stats.read_trees([process.pid]).get(process.pid)
        return tree.cpu if tree is not None else 0.0

    try:
        wait_until(lambda: used() > 0.3, "0.3 s of CPU time", 30)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert used() == 0.0


def test_the_time_of_the_machine_increases() -> None:
    before = process_stats.read_machine()
    assert before is not None

    def has_increased() -> bool:
        now = process_stats.read_machine()
        return now is not None and now.total > before.total

    wait_until(has_increased, "a later time")


def test_rates_of_processes() -> None:
    rates = UseRates()
    first = ProcessUse(cpu=1.0, waited=0.5, switches=10, memory=100, threads=2, files=3)
    assert rates.update({7: first}, 10.0) == {7: {"memory": 100, "threads": 2, "files": 3}}
    second = first._replace(cpu=2.0, waited=0.4, switches=30)  # a thread that had waited has ended
    values = rates.update({7: second}, 12.0)[7]
    assert (values["cpu"], values["wait"], values["switches"]) == (0.5, 0.0, 10.0)
    rates.update({}, 13.0)
    assert "cpu" not in rates.update({7: second}, 14.0)[7]


def test_the_machine() -> None:
    use = process_stats.read_machine()
    assert use is not None
    assert 0 < use.busy <= use.total
    assert process_stats.cpus() >= 1
