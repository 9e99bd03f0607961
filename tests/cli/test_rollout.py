"""``passerelle rollout`` and ``/rollout`` of the admin port, against the rollouts of a gateway in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from passerelle.supervisor.admin import Admin
from passerelle.supervisor.split_store import FileStore
from passerelle.system import ports
from tests.supervisor.helpers import run
from tests.supervisor.rollout_gateways import ROUTE, Gateway, Time, text
from tests.supervisor.up import invoke

Commands = Callable[..., Any]


def with_gateway(folder: Path, body: Callable[[Gateway, Commands], Any], config: str | None = None) -> None:
    """Run ``body`` with a gateway, and a function that runs a command against its admin port."""

    async def main() -> None:
        time = Time()
        made = Gateway(config or text(), FileStore(folder / "state", print, time), time)
        await made.rollouts.load()
        (sock,) = ports.reserve("127.0.0.1", 0)
        admin = Admin(sock, made)  # type: ignore[arg-type]
        await admin.start()

        async def command(*words: str) -> tuple[int, str]:
            return await asyncio.to_thread(invoke, folder, "rollout", *words, "--admin", admin.address)

        try:
            await body(made, command)
        finally:
            await admin.stop()

    run(main())


def test_a_rollout_from_its_start_to_its_end(tmp_path: Path) -> None:
    async def body(made: Gateway, rollout: Commands) -> None:
        assert await rollout() == (0, "/a: not started, 0 % of the users on new\n")
        started = "/a: running, 1 % of the users on new (step 1 of 5): started by local from 127.0.0.1\n"
        assert await rollout("start") == (0, started)
        made.count("old", 990, failed=3)
        made.count("new", 9)
        await made.rollouts.tick()
        code, shown = await rollout(ROUTE, "status")
        assert code == 0
        # The clock of this gateway is ahead of that of the command.
        assert shown.splitlines()[1:] == [
            "  for 0 minutes; the next step needs: 41 more requests",
            "  old: 990 requests, 3 failed, 0 slow",
            "  new: 9 requests, 0 failed, 0 slow",
        ]
        assert (await rollout("pause"))[1].startswith(
            "/a: paused, 1 % of the users on new (step 1 of 5): paused by local"
        )
        assert (await rollout("resume"))[0] == 0
        assert (await rollout(ROUTE, "skip"))[1].startswith("/a: running, 5 % ")
        code, shown = await rollout(ROUTE, "--json")
        found = json.loads(shown)["routes"][ROUTE]
        assert (found["status"], found["share"], found["step"], found["leads"]) == ("running", 50, 1, True)
        assert (await rollout(ROUTE, "abort"))[1].startswith("/a: aborted, 0 % of the users on new: aborted by local")
        audited = [event.detail["action"] for event in made.events.since(0, frozenset({"audit"}))]
        assert audited == ["rollout"] * 5

    with_gateway(tmp_path, body)


def test_a_rollback_is_exit_code_one_with_its_evidence(tmp_path: Path) -> None:
    async def body(made: Gateway, rollout: Commands) -> None:
        await rollout("start")
        made.count("old", 99)
        made.count("new", 10, failed=10)
        await made.rollouts.tick()
        code, shown = await rollout()
        assert code == 1
        assert shown == (
            "/a: rolled back, 0 % of the users on new: more requests fail (old: 0 of 99 requests, new: 10 of 10)\n"
        )

    with_gateway(tmp_path, body)


def test_what_cannot_be_done_is_a_message(tmp_path: Path) -> None:
    async def body(made: Gateway, rollout: Commands) -> None:
        assert await rollout("skip") == (1, "/a: no rollout is in progress; begin with start\n")
        code, shown = await rollout("skip", "--json")
        assert (code, json.loads(shown)) == (1, {"problems": ["/a: no rollout is in progress; begin with start"]})
        assert await rollout("/b", "start") == (1, "no rollout on route '/b'; routes with a rollout: /a\n")
        assert await rollout("/b") == (1, "no rollout on route '/b'; routes with a rollout: /a\n")
        code, shown = await rollout(ROUTE, "/b", "start")
        assert (code, "found '/b'; allowed is a route, and one of status, start" in shown) == (2, True)

    with_gateway(tmp_path, body)


def test_a_gateway_without_rollouts(tmp_path: Path) -> None:
    async def body(made: Gateway, rollout: Commands) -> None:
        assert await rollout() == (0, "no route has a rollout\n")
        assert await rollout("start") == (1, "no route has a rollout\n")

    with_gateway(tmp_path, body, text(None))


def test_state_that_cannot_be_kept_is_exit_code_one(tmp_path: Path) -> None:
    async def body(made: Gateway, rollout: Commands) -> None:
        await rollout("start")
        (tmp_path / "state" / "splits.json").unlink()
        (tmp_path / "state").rmdir()
        (tmp_path / "state").write_text("a file in its place")
        made.count("old", 5000)
        made.count("new", 50)
        made.time.now += 3600
        await made.rollouts.tick()
        code, shown = await rollout()
        assert code == 1
        assert shown.endswith("shares stay as they are, and steps wait\n")

    with_gateway(tmp_path, body)
