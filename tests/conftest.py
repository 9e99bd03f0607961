"""What every test shares: the ``needs`` mark, the parts of the suite, signals, and how property tests run."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import requirements

ROOT = Path(__file__).parent

# These measure time and CPU of processes: beside other tests they would measure those too. test_ports needs ports
# that no other test takes.
ALONE = (
    "benchmarks/test_bodies.py",
    "benchmarks/test_clients.py",
    "benchmarks/test_peers.py",
    "benchmarks/test_procfs.py",
    "benchmarks/test_rig.py",
    "benchmarks/test_slow.py",
    "benchmarks/test_wrk.py",
    "system/test_ports.py",
)

# These judge what clients see within limits of time, on processors that have time left: two modules at a time.
PAIRS = (
    "attack/test_attack_scripts.py",
    "benchmarks/test_shared_cache.py",
    "chaos/test_autoscaling.py",
    "chaos/test_streams.py",
)

# The rule for `@pytest.mark.long`, which `make test-long` runs, is docs/decisions/026-long-tests.md.
LONG_MARK = b"mark.long"
LONG_TIMEOUT = 300  # seconds until such a test counts as one that hangs

# These have the longest times, the longest first. One that starts last would leave the other processes idle.
FIRST = (
    "supervisor/dashboard/test_page.py",
    "supervisor/test_up.py",
    "cli/test_keys.py",
    "attack/test_smuggling.py",
    "supervisor/test_process_trees.py",
    "supervisor/test_terminal.py",
    "supervisor/test_event_stream.py",
    "supervisor/test_instance_admin.py",
    "supervisor/test_supervisor.py",
    "supervisor/test_diagnose.py",
    "supervisor/test_reconciler.py",
    "supervisor/test_autoscaling.py",
    "supervisor/test_file_watch.py",
    "supervisor/test_inherited_state.py",
    "conformance/test_nothing_is_held.py",
    "appserver/test_main.py",
    "examples/test_aside.py",
    "examples/test_prepare.py",
    "examples/test_instances.py",
    "attack/test_shop.py",
    "caching/test_memory_store.py",
)

# The same examples in every run: a failure that comes and goes is no evidence about the change under test. No deadline:
# it measures the machine. `make test ARGS=--hypothesis-profile=search` looks for new examples, and many more of them.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=["all", "together", "pairs", "alone", "long"],
        default="all",
        help="only the tests that may run in parallel (together), two modules at a time (pairs), or one at a time"
        " (alone), each without those that take long; or only those (long)",
    )


def pytest_configure(config: pytest.Config) -> None:
    missing = [name for name in (*ALONE, *PAIRS, *FIRST) if not (ROOT / name).exists()]
    if missing:
        raise pytest.UsageError(f"{__file__}: ALONE, PAIRS or FIRST names {', '.join(missing)}, which does not exist")
    pass_on_signals()


def pass_on_signals() -> None:
    """Have processes that tests start react to signals that this one was started to ignore.

    ``nohup`` ignores SIGHUP, a shell's background job SIGINT and SIGQUIT, and programs inherit that. A handler that
    does nothing protects this process in the same way, but ends with ``exec``. A worker of xdist always installs it for
    SIGHUP: it cannot see how the first process was started, and ends when that does.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        worker = number == signal.SIGHUP and "PYTEST_XDIST_WORKER" in os.environ
        if worker or signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # Two more than processors: many tests wait for processes, timers or programs.
    return len(os.sched_getaffinity(0)) + 2


PARTS = {ROOT / name: part for part, names in (("alone", ALONE), ("pairs", PAIRS)) for name in names}


def part_of(path: Path) -> str:
    """Return the part of the suite that the file ``path`` belongs to, apart from its long tests."""
    return PARTS.get(path, "together")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # Every process of xdist collects all tests. Looking for garbage among objects that all stay is a third of that.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Not importing the other part's modules saves seconds. Paths on the command line do not come here: filtered below.
    part = config.getoption("part")
    if part == "all" or not collection_path.is_file():
        return None
    is_other = LONG_MARK not in collection_path.read_bytes() if part == "long" else part_of(collection_path) != part
    return is_other or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    parts: dict[pytest.Item, str] = {}
    for item in items:
        parts[item] = part_of(item.path)
        if parts[item] != "together":
            item.add_marker(parts[item])
        if item.get_closest_marker("long"):
            parts[item] = "long"
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))
    part = config.getoption("part")
    if part != "all":
        if others := [item for item in items if parts[item] != part]:
            config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if parts[item] == part]
    if part in ("together", "pairs", "long"):
        # xdist hands out modules in this order: those of FIRST, then those with the most slow tests.
        first = {ROOT / name: place for place, name in enumerate(FIRST)}
        slow: Counter[Path] = Counter()
        for item in items:
            if item.get_closest_marker("slow"):
                limit = item.get_closest_marker("timeout")
                slow[item.path] += limit.args[0] if limit else 60
        items.sort(key=lambda item: (first.get(item.path, len(FIRST)), -slow[item.path]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            if requirements.find(name) is None:
                requirements.missing(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    line = requirements.summary(report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple))
    if line:
        terminalreporter.write_line(line, yellow=True)
