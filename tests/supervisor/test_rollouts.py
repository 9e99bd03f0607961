"""Rollouts of one gateway: steps, judgements, changes by operators, restarts, damaged and unwritable state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from passerelle.config.loader import load_text
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.upstream.shadow import ShadowResults
from tests.supervisor.helpers import run
from tests.supervisor.rollout_gateways import PLANNED, ROUTE, Gateway, Time, gateway, minutes, simulated, text


@pytest.fixture
def time() -> Time:
    return Time()


def events(made: Gateway) -> list[dict[str, Any]]:
    return [event.detail for event in made.events.since(0, frozenset({"rollout"}))]


async def started(folder: Path, time: Time, config: str | None = None) -> Gateway:
    made = gateway(folder, time, config)
    await made.rollouts.load()
    await made.change("start")
    return made


async def restarted(made: Gateway, folder: Path, config: str | None = None) -> Gateway:
    """Return the gateway that runs after ``made`` was killed."""
    other = gateway(folder, made.time, config)
    await other.rollouts.load()
    return other


def test_a_healthy_rollout_takes_all_steps(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await minutes(made, 240)
        assert made.status["status"] == "done"
        assert made.shares == [10, 50, 250, 500, 1000]
        assert made.splits.held == {}
        assert [(event["status"], event["share"]) for event in events(made)] == [
            *(("running", share) for share in (10, 50, 250, 500, 1000)),
            ("done", 1000),
        ]
        assert made.lines[-1] == "rollout of /a: done, 100 % of the users on new: the step is complete"
        assert made.rollouts.metrics()[ROUTE]["changes"] == {"running": 5, "done": 1}
        # Each step takes its ten minutes.
        assert time.now - 1_800_000_000 == 50 * 60

    run(body())


def test_a_worse_service_is_rolled_back_with_the_evidence(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await minutes(made, 240, new_fails=0.1)
        assert made.share == 0
        assert made.shares == [10, 0]
        last = events(made)[-1]
        assert (last["status"], last["share"], last["reason"]) == ("rolled_back", 0, "more requests fail")
        assert last["new_events"] > 0
        assert last["log_evidence"] > 0
        assert "rolled back, 0 % of the users on new: more requests fail (old: " in made.lines[-1]
        again = await restarted(made, tmp_path)
        assert (again.share, again.status["status"]) == (0, "rolled_back")
        assert again.status["evidence"]["new"]["events"] == last["new_events"]

    run(body())


def test_a_slower_service_is_rolled_back(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        made.count("old", 150, seconds=0.02)
        await made.rollouts.tick()
        # One and a half medians, which the workers receive; a quantile of the histogram is at most 10 % too high.
        assert made.sent[-1][ROUTE]["slow_after"] == pytest.approx(0.03, rel=0.11)
        await minutes(made, 240, new_slow=0.9)
        assert made.status["reason"] == "more requests are slow"
        assert made.share == 0
        assert made.sent[-1][ROUTE]["slow_after"] is None

    run(body())


def test_few_requests_wait(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        made.count("old", 5000)
        made.count("new", 49)
        time.now += 86_400
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("running", 10)
        assert made.status["waits_for"] == "1 more request"
        made.count("new", 1)
        await made.rollouts.tick()
        assert made.share == 50

    run(body())


@pytest.mark.parametrize("step", range(5))
def test_a_gateway_that_is_killed_goes_on_from_its_step(tmp_path: Path, time: Time, step: int) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        while made.status["step"] < step:
            await minutes(made, 1)
        await minutes(made, 5)
        assert made.status["step"] == step
        counted = made.status["counts"]["new"]["requests"]
        made = await restarted(made, tmp_path)
        assert made.share == PLANNED[step + 1], "before the workers start"
        assert made.sent == []
        assert made.status["counts"]["new"]["requests"] == counted, "the counts of the step are kept"
        with pytest.raises(ChangeRefused, match="a rollout is in progress"):
            await made.splits.set(ROUTE, {"new": 777}, actor="admin", reason="")
        await minutes(made, 240)
        assert made.status["status"] == "done"
        assert made.shares == list(PLANNED[step + 1 :])

    run(body())


# ---- the shadow step

SHADOW = "shadow: {comparisons: 1000, differences: 1%}, steps: [10%, 100%], at_least: 1m, requests: 1"
WITH_SHADOW = text(SHADOW, more=", shadow: {service: new}")


def compared(number: int, differing: int = 0, failed: int = 0) -> dict[str, Any]:
    from passerelle.crossing.compare_json import Difference, Kind

    results = ShadowResults(b"key")
    results.sent = number + failed
    for index in range(number):
        results.ledger.add([Difference(("price",), Kind.VALUE, 1, 2)] if index < differing else [])
    if failed:
        results.failed["connect"] = failed
    return results.to_json()


def test_the_first_users_move_after_enough_equal_responses(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time, WITH_SHADOW)
        assert (made.status["status"], made.share) == ("shadow", 0)
        made.shadow = compared(999)
        time.now += 10
        await made.rollouts.tick()
        assert (made.status["status"], made.status["waits_for"]) == ("shadow", "1 more comparison")
        made.shadow = compared(1000)
        time.now += 10
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("running", 100)

    run(body())


@pytest.mark.parametrize("results", [compared(1000, differing=40), compared(960, failed=40)])
def test_responses_that_differ_or_fail_end_the_rollout(tmp_path: Path, time: Time, results: dict[str, Any]) -> None:
    async def body() -> None:
        made = await started(tmp_path, time, WITH_SHADOW)
        made.shadow = results
        time.now += 10
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("rolled_back", 0)
        assert made.lines[-1].endswith("the responses differ (40 of 1000)")

    run(body())


# ---- operators


def test_operators_pause_resume_skip_and_abort(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        assert (await made.change("pause"))["message"] == (
            "/a: paused, 1 % of the users on new (step 1 of 5): paused by admin"
        )
        await minutes(made, 30)
        assert made.share == 10
        made = await restarted(made, tmp_path)
        assert (made.status["status"], made.share) == ("paused", 10)
        await made.change("resume")
        await made.change("skip")
        await made.change("skip")
        assert (made.status["status"], made.share) == ("running", 250)
        await made.change("abort", "token")
        assert (made.status["status"], made.share, made.status["reason"]) == ("aborted", 0, "aborted by token")
        made = await restarted(made, tmp_path)
        assert (made.status["status"], made.share) == ("aborted", 0)
        await made.change("start")
        assert made.share == 10

    run(body())


def test_changes_that_are_not_possible_are_refused(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = gateway(tmp_path, time)
        await made.rollouts.load()
        for action in ("pause", "resume", "skip", "abort"):
            with pytest.raises(ChangeRefused, match="no rollout is in progress; begin with start"):
                await made.change(action)
        with pytest.raises(InvalidChange, match="allowed are start, pause, resume, skip, abort"):
            await made.change("stop")
        with pytest.raises(NotFound, match="routes with a rollout: /a"):
            await made.rollouts.change({"route": "/b", "action": "start"}, "admin")
        await made.splits.set(ROUTE, {"new": 300}, actor="admin", reason="")
        with pytest.raises(ChangeRefused, match="300 per mille of the users, and the rollout begins with 10"):
            await made.change("start")
        await made.splits.set(ROUTE, {"new": 10}, actor="admin", reason="")
        await made.rollouts.change({"action": "start"}, "admin")
        with pytest.raises(ChangeRefused, match="a rollout is in progress; abort it first"):
            await made.change("start")
        with pytest.raises(ChangeRefused, match="the rollout is not paused"):
            await made.change("resume")
        assert made.status["status"] == "running"

    run(body())


# ---- reloads


def test_a_changed_plan_pauses_at_a_share_of_it(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await made.change("skip")
        await made.change("skip")
        assert made.share == 250
        await made.reload(text("steps: [2%, 20%, 100%]"))
        await made.rollouts.tick()
        assert (made.status["status"], made.share, made.status["reason"]) == ("paused", 200, "the plan has changed")
        await made.reload(text("steps: [50%, 100%]"))
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("paused", 0)
        await made.change("resume")
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("running", 500)
        assert made.shares == [10, 50, 250, 200, 0, 500]

    run(body())


def test_a_rollout_that_the_file_no_longer_has_ends(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await made.reload(text(None, weight=5))
        assert made.share == 10, "as long as the rollout holds the split"
        await made.rollouts.tick()
        assert made.share == 5
        await made.splits.set(ROUTE, {"new": 700}, actor="admin", reason="")
        made = await restarted(made, tmp_path, text(None, weight=5))
        assert made.share == 5, "it was killed before it could keep the new weights"

    run(body())


def test_a_rollout_to_another_service_is_another_rollout(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await made.change("skip")
        await made.reload(text(new="third"))
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("aborted", 0)
        assert made.status["reason"] == "the services of the split have changed"
        await made.change("start")
        assert made.splits.weights(ROUTE) == {"old": 990, "third": 10}

    run(body())


# ---- weights that operators set


def test_weights_are_kept_until_the_file_has_others(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        plain = text(None, weight=5)
        made = gateway(tmp_path, time, plain)
        await made.rollouts.load()
        await made.rollouts.tick()
        assert not list(tmp_path.iterdir()), "nothing is kept yet"
        await made.splits.set(ROUTE, {"new": 300}, actor="admin", reason="")
        await made.rollouts.tick()
        made = await restarted(made, tmp_path, plain)
        assert made.share == 300
        made = await restarted(made, tmp_path, text(None, weight=7))
        assert made.share == 7
        await made.reload(text(None, weight=8))
        await made.rollouts.tick()
        made = await restarted(made, tmp_path, text(None, weight=8))
        assert made.share == 8

    run(body())


# ---- state that is damaged or cannot be kept


def _edit(path: Path, **state: Any) -> None:
    found = json.loads(path.read_text())
    found["splits"][ROUTE]["record"]["rollout"]["state"] |= state
    path.write_text(json.dumps(found))


DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-60]),
    "binary": lambda path: path.write_bytes(b"\x80\x00" * 500),
    "of another program": lambda path: path.write_text('{"version": 3}'),
    "of a later format": lambda path: path.write_text(path.read_text().replace("splits 1", "splits 2")),
    "endless": lambda path: path.write_bytes(b" " * (5 << 20)),
    "a share outside of the plan": lambda path: path.write_text(
        path.read_text().replace("950", "900").replace("50,", "100,")
    ),
    "a step outside of the plan": lambda path: _edit(path, step=17),
    "another step than the weights": lambda path: _edit(path, step=3),
    "an unknown status": lambda path: _edit(path, status="sleeping"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_pauses_the_rollout(tmp_path: Path, time: Time, damage: str) -> None:
    async def body() -> None:
        made = await started(tmp_path, time)
        await made.change("skip")
        DAMAGES[damage](tmp_path / "splits.json")
        made = await restarted(made, tmp_path)
        assert (made.status["status"], made.share) == ("paused", 0)
        assert "damaged" in made.status["reason"]
        assert any("damaged" in line and "splits.json" in line for line in made.lines)
        await minutes(made, 30)
        assert made.share == 0
        await made.change("resume")
        await made.rollouts.tick()
        assert (made.status["status"], made.share) == ("running", 10)
        while made.status["status"] != "done":
            await made.change("skip")
        assert made.shares == [10, 50, 250, 500, 1000]
        made = await restarted(made, tmp_path)
        assert made.share == 1000

    run(body())


def test_a_damaged_file_does_not_take_back_what_the_file_gives(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        (tmp_path / "splits.json").write_text("{")
        made = gateway(tmp_path, time, text(weight=1000))
        await made.rollouts.load()
        assert (made.status["status"], made.share) == ("paused", 1000)
        assert (tmp_path / "splits.damaged").read_text() == "{"
        plain = gateway(tmp_path, time, text(None, weight=300))
        await plain.rollouts.load()
        assert plain.share == 300

    run(body())


def _break(folder: Path) -> None:
    """Make the folder unusable, for root as well."""
    shutil.rmtree(folder)
    folder.write_text("a file in its place")


def test_without_a_place_for_its_state_a_rollout_does_not_start(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        folder = tmp_path / "state"
        folder.write_text("a file in its place")
        made = gateway(folder, time)
        await made.rollouts.load()
        assert (made.status["status"], made.share) == ("paused", 0)
        assert "cannot read" in made.status["reason"]
        with pytest.raises(ChangeRefused, match=r"the state cannot be kept: cannot write .*splits\.json: "):
            await made.change("resume")
        assert made.share == 0

    run(body())


def test_a_step_waits_and_a_rollback_does_not_if_the_state_cannot_be_kept(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        folder = tmp_path / "state"
        made = await started(folder, time)
        _break(folder)
        await minutes(made, 30)
        assert made.share == 10
        assert "shares stay as they are, and steps wait" in made.lines[-1]
        assert "cannot write" in made.status["problem"]
        with pytest.raises(ChangeRefused, match="cannot be kept"):
            await made.change("pause")
        made.count("new", 200, failed=150)
        await made.rollouts.tick()
        assert (made.share, made.status["status"]) == (0, "rolled_back")
        folder.unlink()
        await made.rollouts.tick()
        assert made.status["problem"] == ""
        assert made.splits.held == {}
        made = await restarted(made, folder)
        assert (made.share, made.status["status"]) == (0, "rolled_back")
        assert made.shares == []

    run(body())


def test_an_abort_does_not_wait_for_the_store(tmp_path: Path, time: Time) -> None:
    async def body() -> None:
        folder = tmp_path / "state"
        made = await started(folder, time)
        _break(folder)
        await made.change("abort")
        assert (made.share, made.status["status"]) == (0, "aborted")
        folder.unlink()
        await made.rollouts.tick()
        made = await restarted(made, folder)
        assert (made.share, made.status["status"]) == (0, "aborted")

    run(body())


# ---- simulations through the controller (scripts/rollout_simulations.py runs more of them)


def test_twenty_rollouts_without_a_defect_end_at_all_users() -> None:
    async def body() -> None:
        for seed in range(20):
            made = await simulated(seed, 600.0, "0.1%")
            assert (made.status["status"], made.shares) == ("done", [10, 50, 250, 500, 1000])

    run(body(), 120)


def test_few_rollouts_of_two_equal_services_are_rolled_back() -> None:
    async def body() -> None:
        ended = [(await simulated(seed, 120.0, "5%")).status["status"] for seed in range(60)]
        assert set(ended) <= {"done", "rolled_back"}
        assert ended.count("rolled_back") <= 3

    run(body(), 120)


# ---- configuration


def test_the_defaults_of_a_plan() -> None:
    plan = load_text(text("")).routes[0].rollout
    assert plan is not None
    assert [(step.per_mille, step.seconds, step.requests) for step in plan.plan.steps] == [
        (share, 600.0, 100) for share in (10, 50, 250, 500, 1000)
    ]
    assert (plan.plan.shadow, plan.plan.alpha, plan.plan.most_failures, plan.slower) == (None, 0.05, 5, 1.5)
