"""Watching the configuration file: the polling, and commands with ``--watch``."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.supervisor.file_watch import watch
from tests.supervisor.helpers import run, until, until_now
from tests.supervisor.up import command, invoke
from tests.support.upstream import Upstream, answering, ok

BOUND = 30.0


def replace(path: Path, text: str) -> None:
    """Replace the file by a new one, as editors do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_writing_replacing_deleting_and_links_are_noticed_once_each(tmp_path: Path) -> None:
    first, second, path = tmp_path / "1", tmp_path / "2", tmp_path / "link"
    first.write_text("one")
    second.write_text("two")
    path.symlink_to(first)

    async def follow() -> None:
        seen: list[str | None] = []

        async def changed() -> None:
            seen.append(path.read_text() if path.exists() else None)

        watching = asyncio.create_task(watch(path, changed, interval=0.01, settle=0.01))
        try:
            await until(lambda: seen == ["one"])
            first.write_text("written")
            await until(lambda: seen[1:] == ["written"])
            replace(first, "replaced")
            await until(lambda: seen[2:] == ["replaced"])
            path.with_suffix(".new").symlink_to(second)
            os.replace(path.with_suffix(".new"), path)
            await until(lambda: seen[3:] == ["two"])
            path.unlink()
            await until(lambda: seen[4:] == [None])
            path.write_text("back")
            await until(lambda: seen[5:] == ["back"])
        finally:
            watching.cancel()

    run(follow(), 60)


def test_what_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("0")

    async def follow() -> None:
        seen: list[str] = []

        async def changed() -> None:
            seen.append(path.read_text())

        watching = asyncio.create_task(watch(path, changed, interval=0.001, settle=1.0))
        try:
            await until(lambda: seen == ["0"])
            for number in range(20):
                path.write_text(str(number) * (number + 1))
                await asyncio.sleep(0.01)
            path.write_text("whole")
            await until(lambda: seen[-1] == "whole", 30)
            assert len(seen) < 10
        finally:
            watching.cancel()

    run(follow(), 60)


@pytest.fixture
def upstreams() -> Iterator[list[Upstream]]:
    started = [Upstream(answering(ok(b"%d" % number))) for number in (1, 2)]
    with contextlib.ExitStack() as stack:
        for each in started:
            stack.callback(each.close)
        yield started


def config(upstream: Upstream, more: str = "") -> str:
    return (
        f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\n"
        f"services: {{u: {{targets: ['{upstream.url}']{more}}}}}\nroutes: [{{path: /, service: u}}]\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", [pytest.param("up", marks=pytest.mark.long), "gateway"])
def test_the_file_is_watched_and_its_errors_change_nothing(
    tmp_path: Path, upstreams: list[Upstream], what: str
) -> None:
    one, two = upstreams
    file = tmp_path / "gateway.yaml"
    file.write_text(config(one))
    with command(tmp_path, what, "--watch") as running:
        running.listening()
        assert running.get("/") == (200, b"1")
        file.write_text(config(two))
        until_now(lambda: running.get("/") == (200, b"2"), BOUND)
        assert running.status()["config_problems"] == []

        replace(file, config(one).replace("path: /", "path: users"))
        running.says(r"gateway\.yaml:5:\d+: routes\[0\]\.path: [^\n]+\n[^\n]*nothing was changed", BOUND)
        (problem,) = running.status()["config_problems"]
        assert problem.startswith("gateway.yaml:5:")
        code, output = invoke(tmp_path, "status", "--admin", f"127.0.0.1:{running.admin}")
        assert code == 0
        assert "the current contents of gateway.yaml are not in force:\n  gateway.yaml:5:" in output
        file.unlink()
        running.says("cannot read gateway.yaml: No such file or directory", BOUND)
        assert running.get("/") == (200, b"2")

        # Repaired: first as it was, then with a change.
        replace(file, config(two))
        until_now(lambda: running.status()["config_problems"] == [], BOUND)
        replace(file, config(one))
        until_now(lambda: running.get("/") == (200, b"1"), BOUND)
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_without_watch_nothing_is_reloaded_and_a_touch_alone_is_no_change(
    tmp_path: Path, upstreams: list[Upstream]
) -> None:
    one, two = upstreams
    file = tmp_path / "gateway.yaml"
    file.write_text(config(one))
    with command(tmp_path, "up", "--watch") as followed, command(tmp_path, "up") as other:
        followed.listening()
        other.listening()
        os.utime(file, ns=(1, 1))
        replace(file, config(two))
        until_now(lambda: followed.get("/") == (200, b"2"), BOUND)
        followed.says("gateway.yaml reloaded", BOUND)
        assert followed.text.count("gateway.yaml reloaded") == 1
        assert other.get("/") == (200, b"1") and "gateway.yaml reloaded" not in other.text
        assert followed.stop() == other.stop() == 0


@pytest.mark.slow
def test_what_a_worker_cannot_use_is_taken_back_in_all_of_them(tmp_path: Path, upstreams: list[Upstream]) -> None:
    one, two = upstreams
    file = tmp_path / "gateway.yaml"
    file.write_text(config(one).replace("admin:", "workers: 2\nadmin:"))
    (tmp_path / "keys.db").write_text("no database" * 100)
    with command(tmp_path, "up", "--watch") as running:
        running.listening()
        before = running.instances("u")
        replace(
            file,
            f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 2\naccess_log: 'off'\n"
            f"services:\n  u: {{targets: ['{two.url}']}}\n  v: {{targets: ['{two.url}']}}\n"
            "keys: {store: keys.db}\nroutes: [{path: /, service: u}, {path: /v, service: v, auth: [key]}]\n",
        )
        running.says(r"a gateway worker cannot apply the configuration: [^\n]+\n[^\n]*nothing was changed", BOUND)
        until_now(lambda: [i["name"] for i in running.instances("u")] == [i["name"] for i in before], BOUND)
        assert list(running.status()["services"]) == ["u"]
        assert "cannot apply the configuration" in running.status()["config_problems"][0]
        # A restarted worker also uses the previous configuration.
        for pid in [worker["pid"] for worker in running.status()["workers"]]:
            os.kill(pid, 9)
        until_now(lambda: [w["restarts"] for w in running.status()["workers"]] == [1, 1], BOUND)
        until_now(lambda: all(w["state"] == "up" for w in running.status()["workers"]), BOUND)
        assert {running.get("/")[1] for _ in range(10)} == {b"1"}
        assert running.stop() == 0


def test_only_a_file_can_be_watched(tmp_path: Path) -> None:
    code, output = invoke(tmp_path, "up", "--watch", "/dev/null")
    assert code == 2
    assert "--watch needs a regular file, and /dev/null is not one" in output
