"""Health: the table of transitions, its rules, and the same view for all workers."""

import itertools
import json

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from passerelle.balancing import health
from passerelle.balancing.health import (
    TABLE,
    HealthEvent,
    HealthSettings,
    HealthState,
    ServiceHealth,
    apply_snapshot,
    reached_failure_limit,
)
from passerelle.balancing.instance import Instance, InstanceConfig, Roster, Status, acquire, release
from passerelle.balancing.policies import PowerOfTwo

KEYS = [f"i{number}@h:{number}" for number in range(6)]


def service(number: int, **settings: object) -> ServiceHealth:
    """Return a service with ``number`` instances, up since time 0."""
    service = ServiceHealth(HealthSettings(**settings))  # type: ignore[arg-type]
    service.replace(KEYS[:number], 0.0)
    for key in KEYS[:number]:
        service.probed(key, True, 0.0)
    return service


def states(service: ServiceHealth) -> list[str]:
    return [entry["state"] for entry in service.snapshot(0.0)["instances"].values()]


def test_the_docstring_has_the_whole_table() -> None:
    """The table in the documentation is the one in use."""
    lines = (health.__doc__ or "").splitlines()
    rows = {cells[0]: cells[1:] for line in lines if len(cells := line.split()) == 7}
    for state, (column, event) in itertools.product(HealthState, enumerate(HealthEvent)):
        after = TABLE.get((state, event))
        assert rows[state.value][column] == (after.value if after else ".")


def test_members_are_down_until_their_first_successful_probe() -> None:
    service = ServiceHealth()
    service.replace(KEYS[:2], 0.0)
    assert states(service) == ["joining", "joining"]
    assert service.snapshot(0.0)["instances"][KEYS[0]]["status"] == "DOWN"
    (change,) = service.probed(KEYS[0], True, 1.0)
    assert (change.before, change.event, change.after) == (HealthState.JOINING, HealthEvent.PASSED, HealthState.UP)
    assert states(service) == ["up", "joining"]


def test_members_join_up_without_probes() -> None:
    service = ServiceHealth(HealthSettings(probed=False))
    service.replace(KEYS[:2], 0.0)
    assert states(service) == ["up", "up"]
    service.drain(KEYS[0], 1.0)
    service.resume(KEYS[0], 2.0)
    assert states(service) == ["up", "up"]


def test_down_after_three_up_after_one() -> None:
    service_ = service(2)
    for at, (ok, expected) in enumerate(
        [(False, "up"), (False, "up"), (True, "up"), (False, "up"), (False, "up"), (False, "down"), (False, "down")]
    ):
        service_.probed(KEYS[0], ok, float(at))
        assert states(service_)[0] == expected
    service_.probed(KEYS[0], True, 9.0)
    assert states(service_)[0] == "up"


def test_ejections_grow_longer_and_shorter_again() -> None:
    service_ = service(4)
    now = 100.0
    lengths = []
    for _ in range(6):
        assert service_.report_failing(KEYS[0], now)
        until = service_.snapshot(now)["instances"][KEYS[0]]["ejected_for"] + now
        lengths.append(until - now)
        assert service_.tick(until - 0.01) == []
        assert [change.event for change in service_.tick(until)] == [HealthEvent.SERVED]
        now = until + 1.0
    assert lengths == pytest.approx([30, 60, 120, 240, 300, 300])
    # up for four times 30 s, which takes back four of six ejections
    now += 120.0
    service_.report_failing(KEYS[0], now)
    assert service_.snapshot(now)["instances"][KEYS[0]]["ejected_for"] == pytest.approx(120)


@pytest.mark.parametrize(("number", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)])
def test_at_most_half_is_ejected(number: int, most: int) -> None:
    service_ = service(number)
    for key in KEYS[:number]:
        service_.report_failing(key, 20.0)
    assert states(service_).count("ejected") == most


def test_the_last_one_up_is_never_ejected() -> None:
    service_ = service(4)
    for key in KEYS[:3]:
        for _ in range(3):
            service_.probed(key, False, 1.0)
    assert service_.report_failing(KEYS[3], 2.0) == []
    assert states(service_) == ["down", "down", "down", "up"]


def test_an_ejection_ends_when_nothing_else_is_up() -> None:
    service_ = service(3)
    service_.report_failing(KEYS[0], 20.0)
    for key in KEYS[1:3]:
        for _ in range(3):
            service_.probed(key, False, 21.0)
    assert states(service_) == ["up", "down", "down"]


def test_scaling_down_ends_ejections_over_half() -> None:
    service_ = service(6)
    for at, key in enumerate(KEYS[:3]):
        service_.report_failing(key, 20.0 + at)
    changes = service_.replace(KEYS[:4], 30.0)
    assert [change.key for change in changes] == KEYS[:1]
    assert states(service_) == ["up", "ejected", "ejected", "up"]


def test_an_overloaded_service_gets_one_ejected_instance_a_second_back() -> None:
    service_ = service(6)
    for at, key in enumerate(KEYS[:3]):
        service_.report_failing(key, 20.0 + at)
    assert [change.key for change in service_.report_overload(30.0)] == KEYS[:1]
    assert service_.report_overload(30.5) == []
    assert [change.key for change in service_.report_overload(31.0)] == KEYS[1:2]
    assert states(service_) == ["up", "up", "ejected", "up", "up", "up"]
    service_.tick(60.0)
    assert service_.report_overload(70.0) == []


def test_slow_start_has_ten_steps_at_the_times_of_next_change() -> None:
    service_ = service(2)
    seen = []
    now: float | None = 0.0
    while now is not None:
        seen.append((round(now, 6), service_.snapshot(now)["instances"][KEYS[0]]["share"]))
        following = service_.next_change(now)
        assert following is None or following > now
        now = following
    assert seen == [(float(step), max(step, 1) / 10) for step in range(11)]


def test_next_change_is_the_end_of_an_ejection() -> None:
    service_ = service(3)
    service_.report_failing(KEYS[0], 50.0)
    assert service_.next_change(50.0) == 80.0
    service_.tick(80.0)
    assert service_.next_change(80.0) == 81.0
    assert service_.next_change(100.0) is None


def test_panic_uses_instances_that_were_up_before() -> None:
    service_ = ServiceHealth()
    service_.replace(KEYS[:3], 0.0)
    assert service_.snapshot(0.0)["panic"] is False  # no instance has been up: joining is no panic
    service_.probed(KEYS[0], True, 0.0)
    service_.probed(KEYS[1], True, 0.0)
    for key in KEYS[:2]:
        for _ in range(3):
            service_.probed(key, False, 1.0)
    snapshot = service_.snapshot(1.0)
    assert snapshot["panic"] is True
    assert [entry["status"] for entry in snapshot["instances"].values()] == ["UP", "UP", "DOWN"]
    assert [entry["state"] for entry in snapshot["instances"].values()] == ["down", "down", "joining"]
    service_.probed(KEYS[0], True, 2.0)
    assert [entry["status"] for entry in service_.snapshot(2.0)["instances"].values()] == ["UP", "DOWN", "DOWN"]


def test_panic_admits_a_resumed_instance_before_its_first_probe() -> None:
    service_ = ServiceHealth()
    service_.replace(KEYS[:2], 0.0)
    service_.probed(KEYS[0], True, 0.0)
    service_.drain(KEYS[0], 1.0)
    service_.resume(KEYS[0], 2.0)
    snapshot = service_.snapshot(2.0)
    assert snapshot["panic"] is True
    assert [entry["state"] for entry in snapshot["instances"].values()] == ["joining", "joining"]
    assert [entry["status"] for entry in snapshot["instances"].values()] == ["UP", "DOWN"]


def test_panic_threshold_can_be_a_part_or_off() -> None:
    for panic, expected in ((0.5, True), (0.4, False), (None, False)):
        service_ = service(4, panic=panic)
        for key in KEYS[:2]:
            for _ in range(3):
                service_.probed(key, False, 1.0)
        assert service_.in_panic_mode is expected
    off = service(1, panic=None)
    for _ in range(3):
        off.probed(KEYS[0], False, 1.0)
    assert off.snapshot(1.0)["instances"][KEYS[0]]["status"] == "DOWN"


def test_a_draining_instance_does_not_count() -> None:
    service_ = service(4)
    service_.drain(KEYS[0], 1.0)
    service_.drain(KEYS[1], 1.0)
    service_.probed(KEYS[0], True, 2.0)
    assert states(service_) == ["draining", "draining", "up", "up"]
    for key in KEYS[:4]:
        service_.report_failing(key, 3.0)
    assert states(service_).count("ejected") == 1  # half of two
    service_.resume(KEYS[0], 4.0)
    assert states(service_)[0] == "joining"


def test_unknown_keys_change_nothing() -> None:
    service_ = service(1)
    assert service_.probed("x", True, 1.0) == service_.report_failing("x", 1.0) == service_.drain("x", 1.0) == []
    assert service_.state("x") is None
    assert service_.state(KEYS[0]) is HealthState.UP


def test_a_snapshot_survives_json_and_another_clock() -> None:
    service_ = service(4)
    service_.report_failing(KEYS[1], 20.0)
    service_.probed(KEYS[2], False, 20.0)
    service_.drain(KEYS[3], 20.0)
    snapshot = json.loads(json.dumps(service_.snapshot(25.0)))
    other = ServiceHealth()
    other.replace(KEYS[:4], 1_000_000.0)
    other.restore(snapshot, 1_000_000.0)
    assert other.snapshot(1_000_000.0) == snapshot
    assert [change.key for change in other.tick(1_000_025.0)] == [KEYS[1]]
    with pytest.raises(ValueError, match="version"):
        other.restore({"version": 99, "instances": {}}, 0.0)
    with pytest.raises(ValueError, match="version"):
        apply_snapshot({"instances": {}}, [])


def test_reload_and_scaling_keep_health() -> None:
    service_ = service(3)
    for _ in range(3):
        service_.probed(KEYS[1], False, 1.0)
    service_.replace(KEYS[:3], 2.0)
    assert states(service_) == ["up", "down", "up"]
    service_.replace(KEYS[:5], 2.0)
    assert states(service_) == ["up", "down", "up", "joining", "joining"]
    service_.replace(KEYS[1:2], 3.0)
    service_.replace(KEYS[:2], 4.0)
    assert states(service_) == ["joining", "down"]  # an instance that returns is new


def test_all_workers_see_one_view() -> None:
    service_ = service(3)
    service_.report_failing(KEYS[0], 20.0)
    workers = []
    for _ in range(2):
        roster = Roster(Status.DOWN)
        node = PowerOfTwo(roster.replace([InstanceConfig(f"i{n}", f"h:{n}") for n in range(4)]))
        apply_snapshot(service_.snapshot(20.0), roster.instances)
        workers.append(node)
    for node in workers:
        assert [instance.status for instance in node.members] == [Status.EJECTED, Status.UP, Status.UP, Status.DOWN]
        assert {node.pick() for _ in range(50)} == set(node.members[1:3])
    service_.tick(50.0)
    for node in workers:
        apply_snapshot(service_.snapshot(50.0), node.members)
        assert [instance.share for instance in node.members[:3]] == [0.1, 1.0, 1.0]


def test_every_fifth_failure_in_a_row_is_reported() -> None:
    instance = Instance("a")
    reported = []
    for number in range(1, 16):
        acquire(instance)
        release(instance, False, 0.1)
        if reached_failure_limit(instance):
            reported.append(number)
    assert reported == [5, 10, 15]
    acquire(instance)
    release(instance, True, 0.1)
    assert not reached_failure_limit(instance)


class Random(RuleBasedStateMachine):
    """The invariants hold after any sequence of events."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.service = ServiceHealth()
        self.passed: set[str] = set()
        self.listed: set[str] = set()

    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def replace(self, keys: set[str]) -> None:
        self.passed &= keys
        self.listed = keys
        self.service.replace(sorted(keys), self.now)

    @rule(key=st.sampled_from(KEYS), ok=st.booleans())
    def probe(self, key: str, ok: bool) -> None:
        if ok and self.service.state(key) not in (None, HealthState.DRAINING):
            self.passed.add(key)
        self.service.probed(key, ok, self.now)

    @rule(key=st.sampled_from(KEYS))
    def misbehave(self, key: str) -> None:
        self.service.report_failing(key, self.now)

    @rule()
    def overload(self) -> None:
        self.service.report_overload(self.now)

    @rule(key=st.sampled_from(KEYS), back=st.booleans())
    def drain(self, key: str, back: bool) -> None:
        (self.service.resume if back else self.service.drain)(key, self.now)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.service.tick(self.now)

    @invariant()
    def invariants(self) -> None:
        entries = self.service.snapshot(self.now)["instances"]
        found = {key: entry["state"] for key, entry in entries.items()}
        part = [state for state in found.values() if state != "draining"]
        assert part.count("ejected") <= len(part) / 2
        if "ejected" in part:
            assert "up" in part
        for key, entry in entries.items():
            assert 0.1 <= entry["share"] <= 1.0
            if entry["status"] == "UP":
                assert key in self.passed
                assert entry["state"] != "draining"
        if any(entry["known"] and entry["state"] != "draining" for entry in entries.values()):
            assert any(entry["status"] == "UP" for entry in entries.values())
        following = self.service.next_change(self.now)
        assert following is None or following >= self.now


Random.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
TestInvariants = Random.TestCase
