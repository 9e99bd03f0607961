"""The threads of a plugin: bounded, and started when they are needed."""

from __future__ import annotations

import threading

from passerelle.plugin_host.threads import MOST_WAITING, ThreadPool
from tests.support.wire import wait_until


def test_jobs_run_at_the_same_time_up_to_the_size() -> None:
    pool = ThreadPool("p", 3)
    gate, running, done = threading.Event(), [], []

    def job() -> None:
        running.append(1)
        gate.wait(20)
        done.append(1)

    assert all(pool.submit(job) for _ in range(5))
    wait_until(lambda: len(running) == 3, "three jobs run")
    gate.set()
    wait_until(lambda: len(done) == 5, "all have run")
    first = threading.Event()
    both = threading.Barrier(2, timeout=20)
    assert pool.submit(first.set)
    first.wait(20)
    assert pool.submit(both.wait)
    assert pool.submit(both.wait), "the second does not wait for the thread of the first"
    both_passed = threading.Event()
    assert pool.submit(both_passed.set)
    assert both_passed.wait(20)
    pool.close()
    assert not pool.submit(gate.set)


def test_too_many_jobs_are_refused() -> None:
    pool = ThreadPool("p", 1)
    gate, started = threading.Event(), threading.Event()
    assert pool.submit(lambda: (started.set(), gate.wait(20), None)[2])
    started.wait(20)
    assert all(pool.submit(gate.is_set) for _ in range(MOST_WAITING))
    assert not pool.submit(gate.is_set)
    gate.set()
    pool.close()
