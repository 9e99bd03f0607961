"""The splits of a running gateway: what may be set, what a reload keeps, and counts that never decrease."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.crossing.latency import LatencyHistogram
from passerelle.observability.events import EventLog
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.supervisor.splits import ROLLOUT, SideCounts, Splits, change_split, split_report

ROUTE = "/{rest*}"


def config(weights: str = "{b: 100}", path: str = ROUTE) -> Config:
    services = "".join(f"  {name}: {{targets: ['http://127.0.0.1:1']}}\n" for name in "abc")
    return load_text(f"services:\n{services}routes:\n- {{path: '{path}', service: a, split: {{weights: {weights}}}}}\n")


class Owner:
    """The splits of a configuration, with what workers receive and count."""

    def __init__(self, weights: str = "{b: 100}") -> None:
        self.sent: list[dict[str, Any]] = []
        self.logged: list[str] = []
        self.counts: dict[str, Any] = {}
        self.events = EventLog()
        self.splits = Splits(config(weights), self.events, self.logged.append, self._send, self._read)
        self.changes: list[tuple[str, dict[str, int], str, str]] = []
        self.splits.on_change.append(lambda route, now, actor, why: self.changes.append((route, dict(now), actor, why)))

    async def _send(self, settings: dict[str, Any]) -> None:
        self.sent.append(settings)

    async def _read(self) -> dict[str, Any]:
        return {"splits": self.counts}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_weights_are_sent_recorded_and_reported_once() -> None:
    owner = Owner()
    splits = owner.splits
    assert (splits.routes(), splits.weights(ROUTE)) == ([ROUTE], {"a": 900, "b": 100})
    run(splits.set(ROUTE, {"b": 250}, actor="token", reason="no errors"))
    assert splits.weights(ROUTE) == {"a": 750, "b": 250}
    assert owner.sent == [{ROUTE: {"weights": {"a": 750, "b": 250}, "slow_after": None}}]
    assert owner.changes == [(ROUTE, {"a": 750, "b": 250}, "token", "no errors")]
    (event,) = owner.events.since()
    assert (event.kind, event.text) == ("split", "/{rest*}: a=750 b=250 (token: no errors)")
    assert owner.logged == ["split of /{rest*}: a=750 b=250 (token: no errors)"]
    run(splits.set(ROUTE, {"a": 750, "b": 250}, actor="token", reason=""))
    assert len(owner.events.since()) == 1


@pytest.mark.parametrize(
    ("route", "weights", "error", "message"),
    [
        ("/x", {"b": 1}, NotFound, "no split on route '/x'; routes with a split: /{rest*}"),
        (ROUTE, {"c": 1}, InvalidChange, "/{rest*} has no side 'c'; its sides are: a, b"),
        (ROUTE, {"a": 1, "b": 1}, InvalidChange, "/{rest*}: found the weights 1 + 1 = 2; their sum must be 1000"),
        (ROUTE, {"b": 1001}, InvalidChange, "/{rest*}: found a=-1; a weight is a whole number from 0 to 1000"),
    ],
)
def test_invalid_weights_change_nothing(route: str, weights: dict[str, int], error: type, message: str) -> None:
    owner = Owner()
    with pytest.raises(error) as caught:
        run(owner.splits.set(route, weights, actor="token", reason=""))
    assert str(caught.value).startswith(message)
    assert owner.splits.weights(ROUTE) == {"a": 900, "b": 100}
    assert not owner.sent
    assert not owner.changes


def test_a_reload_keeps_weights_unless_the_file_has_others_than_before() -> None:
    owner = Owner()
    splits = owner.splits
    run(splits.set(ROUTE, {"b": 500}, actor="token", reason=""))
    assert splits.settings(config())[ROUTE]["weights"] == {"a": 500, "b": 500}
    run(splits.adopt(config()))
    assert splits.weights(ROUTE) == {"a": 500, "b": 500}
    assert len(owner.changes) == 1
    run(splits.adopt(config("{b: 200}")))
    assert splits.weights(ROUTE) == {"a": 800, "b": 200}
    assert owner.changes[1:] == [(ROUTE, {"a": 800, "b": 200}, "file", "reloaded")]
    run(splits.set(ROUTE, {"b": 500}, actor="token", reason=""))
    run(splits.adopt(config("{b: 200, c: 0}")))
    assert splits.weights(ROUTE) == {"a": 800, "b": 200, "c": 0}
    run(splits.adopt(config(path="/other")))
    assert splits.routes() == ["/other"]


def test_a_rollout_holds_a_split() -> None:
    owner = Owner()
    splits = owner.splits
    splits.held[ROUTE] = "a rollout changes these weights; pause it first"
    with pytest.raises(ChangeRefused, match="a rollout changes"):
        run(splits.set(ROUTE, {"b": 500}, actor="token", reason=""))
    run(splits.set(ROUTE, {"b": 10}, actor=ROLLOUT, reason="step 1"))
    run(splits.adopt(config("{b: 200}")))
    assert splits.weights(ROUTE) == {"a": 990, "b": 10}
    run(splits.adopt(config("{c: 200}")))
    assert splits.weights(ROUTE) == {"a": 800, "c": 200}


def test_weights_of_an_earlier_run_are_restored_if_they_fit() -> None:
    owner = Owner()
    assert owner.splits.restore(ROUTE, {"a": 300, "b": 700})
    assert owner.splits.weights(ROUTE) == {"a": 300, "b": 700}
    assert not owner.splits.restore(ROUTE, {"a": 300, "z": 700})
    assert not owner.splits.restore("/gone", {"a": 1000})
    assert owner.splits.weights(ROUTE) == {"a": 300, "b": 700}


def counted(requests: int, failed: int = 0) -> dict[str, Any]:
    latency = LatencyHistogram()
    for _ in range(requests):
        latency.add(0.002)
    counts = {"requests": requests, "failed": failed, "failed_users": failed, "slow_users": 0}
    return counts | {"latency": latency.counts}


def test_counts_do_not_decrease_while_a_worker_does_not_reply() -> None:
    owner = Owner()
    assert owner.splits.counts(ROUTE) == {"a": SideCounts(), "b": SideCounts()}
    owner.counts = {ROUTE: {"a": counted(90), "b": counted(10, 1)}}
    report = run(split_report(owner.splits))[ROUTE]
    assert report["sides"]["b"] == {
        "requests": 10, "failed": 1, "failed_users": 1, "slow_users": 0, "p50": pytest.approx(0.002, rel=0.11)
    }  # fmt: skip
    owner.counts = {ROUTE: {"a": counted(50), "b": counted(12, 1)}}
    run(owner.splits.read())
    assert [counts.requests for counts in owner.splits.counts(ROUTE).values()] == [90, 12]


def test_the_threshold_of_slow_requests_is_sent_with_the_weights() -> None:
    owner = Owner()
    run(owner.splits.set_slow_after(ROUTE, 0.25))
    assert owner.sent == [{ROUTE: {"weights": {"a": 900, "b": 100}, "slow_after": 0.25}}]
    with pytest.raises(NotFound):
        run(owner.splits.set_slow_after("/x", 0.25))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "split needs route and weights, and takes a reason"),
        ({"route": ROUTE, "percent": "1"}, "split needs route and weights, and takes a reason"),
        ({"route": ROUTE}, "found ''; allowed is SIDE=N with N from 0 to 1000, in per mille"),
        ({"route": ROUTE, "weights": "b=-1"}, "found 'b=-1'; allowed is SIDE=N with N from 0 to 1000, in per mille"),
        ({"route": ROUTE, "weights": "b=1,b=2"}, "found 'b=2'; allowed is SIDE=N with N from 0 to 1000, in per mille"),
        ({"route": ROUTE, "weights": "b=\u00b2"}, "found 'b=\u00b2'; allowed is SIDE=N with N from 0 to 1000"),
        ({"route": "/x", "weights": "b=1"}, "no split on route '/x'; routes with a split: /{rest*}"),
    ],
)
def test_requests_of_the_admin_port_are_checked(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ChangeRefused) as caught:
        run(change_split(Owner().splits, arguments, "token"))
    assert str(caught.value).startswith(message)
