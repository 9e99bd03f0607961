"""CPU time and memory of process trees, from the kernel's tables."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rig import procfs
from benchmarks.rig.procfs import Stat

REAL = "4242 (nginx: worker) S 4240 4240 4240 0 -1 4194624 1 2 3 4 150 50 7 3 20 0 1 0 100 1 2"


def test_a_stat_line_gives_times_and_kinship():
    assert procfs.parse_stat(REAL) == Stat(pid=4242, parent=4240, session=4240, own=200, reaped=10)
    assert procfs.parse_stat(REAL).ticks == 210


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=15))
def test_no_process_name_can_shift_the_fields(name):
    line = REAL.replace("nginx: worker", name)
    assert procfs.parse_stat(line) == procfs.parse_stat(REAL)


def stat(pid, parent, session=0):
    return Stat(pid, parent, session, 0, 0)


def pids(root, everyone):
    return sorted(member.pid for member in procfs.tree(root, everyone))


def test_a_tree_holds_descendants_of_every_degree_in_any_order():
    everyone = [stat(13, 12), stat(12, 11), stat(11, 10), stat(10, 1), stat(20, 1), stat(21, 20)]
    assert pids(10, everyone) == [10, 11, 12, 13]


def test_a_tree_holds_orphans_of_its_session_and_their_children():
    orphan = stat(31, 1, session=30)
    everyone = [stat(30, 1, session=30), orphan, stat(32, 31, session=32), stat(40, 1, session=40)]
    assert pids(30, everyone) == [30, 31, 32]


def test_a_tree_without_its_root_is_what_the_root_left():
    assert pids(30, [stat(31, 1, session=30), stat(50, 1, session=50)]) == [31]


def test_the_cpu_of_a_child_that_is_gone_still_counts():
    # The child uses a known amount of CPU time, the parent none.
    burn = "import time\nwhile time.process_time() < 0.15: pass"
    code = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('done', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"done\n"
        assert procfs.cpu_seconds(parent.pid) >= 0.13
        parent.communicate(b"\n")


def test_memory_of_this_process_is_seen_to_grow_and_its_peak_to_be_reset():
    root = os.getpid()
    procfs.reset_peaks(root)
    before = procfs.memory(root)
    assert 0 < before.pss <= before.rss
    block = bytearray(64 * 2**20)
    held = procfs.memory(root).rss
    assert held - before.rss >= 60 * 2**20
    del block
    assert procfs.peak_rss(root) - before.rss >= 60 * 2**20
    procfs.reset_peaks(root)
    assert procfs.peak_rss(root) - before.rss < 32 * 2**20


def test_open_files_of_a_tree_are_counted():
    before = procfs.open_files(os.getpid())
    with open(os.devnull), open(os.devnull):
        assert procfs.open_files(os.getpid()) == before + 2


def test_kilobytes_become_bytes_and_a_missing_line_is_an_error():
    text = "Rss:     12 kB\nPss:      7 kB\n"
    assert procfs.parse_kilobytes(text, "Pss") == 7 * 1024
    with pytest.raises(KeyError):
        procfs.parse_kilobytes(text, "Swap")


def test_busy_time_is_all_but_idle_waiting_and_stolen():
    ticks = procfs.TICKS_PER_SECOND
    text = f"cpu  {ticks} {ticks} {ticks} 999 888 {ticks} {ticks} 777 5 0\ncpu0 1 1 1 1 1 1 1\n"
    assert procfs.parse_busy(text) == 5.0


def test_busy_time_grows_by_at_least_what_this_process_works():
    before = procfs.busy_seconds()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert procfs.busy_seconds() - before >= 0.05
