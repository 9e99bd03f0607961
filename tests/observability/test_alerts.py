"""When alerts fire and are resolved."""

from __future__ import annotations

from typing import Any

import pytest

from passerelle.observability.alerts import DAY, AlertChange, AlertRule, Alerts, Measure


def rule(measure: Measure, threshold: float, window: float = 60.0, **more: Any) -> AlertRule:
    facts = {"name": measure, "requests": 10, "route": None, "service": None} | more
    return AlertRule(measure=measure, threshold=threshold, window=window, **facts)


class Judge:
    """Alerts with one rule, on a clock that moves a second with each sample."""

    def __init__(self, *rules: AlertRule) -> None:
        self.now = 1000.0
        self.alerts = Alerts()
        assert self.alerts.replace(rules, self.now) == []

    def see(self, seconds: int, ends: dict[str, float] | None = None, **sample: Any) -> list[tuple[float, bool]]:
        """Judge ``seconds`` equal samples. Returns the second and the state of each change."""
        begun, found = self.now, []
        for _ in range(seconds):
            self.now += 1
            for change in self.alerts.update(sample, ends or {}, self.now, wall=self.now):
                found.append((self.now - begun, change.is_firing))
        return found


def traffic(requests: float, errors: float = 0.0, **more: float) -> dict[str, Any]:
    return {"requests": requests, "errors": errors, **more}


class TestErrorRate:
    def test_it_fires_above_the_threshold_after_a_whole_window(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        assert judge.see(100, total=traffic(100, 6)) == [(60, True)]

    def test_at_the_threshold_it_does_not_fire(self) -> None:
        assert Judge(rule("error_rate", 0.05)).see(200, total=traffic(100, 5)) == []

    def test_a_short_burst_in_a_long_calm_does_not_fire(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        assert judge.see(100, total=traffic(100)) == []
        assert judge.see(2, total=traffic(100, 100)) == []
        assert judge.see(100, total=traffic(100)) == []

    def test_it_is_resolved_after_a_calm_window(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        judge.see(70, total=traffic(100, 100))
        (resolved,) = judge.see(300, total=traffic(100))
        # 57 seconds until the errors are below 5 % of the window, and a window without the condition.
        assert resolved == (116, False)

    def test_an_alert_that_comes_and_goes_stays(self) -> None:
        judge = Judge(rule("error_rate", 0.05, window=10.0))
        judge.see(20, total=traffic(100, 100))
        for _ in range(10):
            assert judge.see(15, total=traffic(100)) == []
            assert judge.see(5, total=traffic(100, 100)) == []

    def test_few_requests_have_no_error_rate(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        assert judge.see(100) == []
        assert judge.see(9, total=traffic(1, 1)) == []
        assert judge.see(1, total=traffic(1, 1)) == [(1, True)]

    def test_it_is_resolved_when_no_requests_come_any_more(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        judge.see(70, total=traffic(100, 100))
        assert judge.see(300) == [(119, False)]

    @pytest.mark.parametrize("scope", ["route", "service"])
    def test_it_can_be_about_a_route_or_a_service(self, scope: str) -> None:
        chosen: dict[str, Any] = {scope: "a"}
        judge = Judge(rule("error_rate", 0.05, **chosen))
        bad, good = traffic(100, 100), traffic(100)
        calm: dict[str, Any] = {"total": bad, f"{scope}s": {"a": good, "b": bad}}
        assert judge.see(100, **calm) == []
        wrong: dict[str, Any] = {"total": good, f"{scope}s": {"a": bad, "b": good}}
        assert judge.see(100, **wrong)[0][1]

    def test_a_pause_of_the_process_counts_little(self) -> None:
        judge = Judge(rule("error_rate", 0.05))
        judge.see(60, total=traffic(100))
        judge.now += 40
        assert judge.see(1, total=traffic(1, 1)) == []


class TestP99:
    def test_it_judges_the_median_of_the_seconds_with_requests(self) -> None:
        judge = Judge(rule("p99", 0.5))
        for _ in range(30):
            assert judge.see(1, total=traffic(10, p99=0.1)) == []
            assert judge.see(1, total=traffic(0)) == []
            assert judge.see(1, total=traffic(10, p99=9.0)) == []
        assert judge.see(60, total=traffic(10, p99=0.6))[0][1]

    def test_without_requests_there_is_nothing_to_fire(self) -> None:
        assert Judge(rule("p99", 0.5)).see(200, total=traffic(0)) == []


class TestRestarts:
    @staticmethod
    def sample(**restarts: int) -> dict[str, Any]:
        return {"services": {"s": {"instances": {name: {"restarts": n} for name, n in restarts.items()}}}}

    def test_it_fires_when_one_instance_restarts_again_and_again(self) -> None:
        judge = Judge(rule("restarts", 3))
        assert judge.see(1, **self.sample(a=7, b=0)) == []
        assert judge.see(10, **self.sample(a=8, b=1)) == []
        assert judge.see(10, **self.sample(a=9, b=1)) == []
        assert judge.see(1, **self.sample(a=10, b=1)) == [(1, True)]
        assert judge.see(200, **self.sample(a=10, b=1))[0][1] is False

    def test_restarts_that_are_rare_do_not_fire(self) -> None:
        judge = Judge(rule("restarts", 2))
        assert [judge.see(61, **self.sample(a=n)) for n in range(20)] == [[]] * 20

    def test_an_instance_that_is_gone_does_not_fire_any_more(self) -> None:
        judge = Judge(rule("restarts", 2))
        judge.see(1, **self.sample(a=0))
        assert judge.see(1, **self.sample(a=2)) == [(1, True)]
        assert judge.see(100, **self.sample(b=0)) == [(60, False)]

    def test_workers_count_without_a_service(self) -> None:
        judge = Judge(rule("restarts", 2), rule("restarts", 2, name="other", service="s"))
        judge.see(1, workers={"gateway": {"restarts": 0}})
        assert judge.see(1, workers={"gateway": {"restarts": 2}}) == [(1, True)]
        assert judge.alerts.firing == {"restarts": True, "other": False}


class TestCertificates:
    def test_it_fires_that_many_days_before_and_ends_with_the_renewal(self) -> None:
        judge = Judge(rule("certificate_days", 14))
        end = judge.now + 14 * DAY + 3
        assert judge.see(5, {"tls": end, "services.s.tls": end + 90 * DAY}) == [(3, True)]
        assert judge.see(5, {"tls": end + 90 * DAY}) == [(1, False)]

    def test_without_certificates_it_does_not_fire(self) -> None:
        assert Judge(rule("certificate_days", 14)).see(5) == []


class TestRules:
    def test_an_unchanged_rule_keeps_its_state(self) -> None:
        known = rule("error_rate", 0.05)
        judge = Judge(known)
        judge.see(70, total=traffic(100, 100))
        assert judge.alerts.replace([known, rule("p99", 1.0)], judge.now) == []
        assert judge.alerts.firing == {"error_rate": True, "p99": False}

    @pytest.mark.parametrize("rules", [[], [rule("error_rate", 0.5)]])
    def test_an_alert_without_its_rule_is_resolved(self, rules: list[AlertRule]) -> None:
        known = rule("error_rate", 0.05)
        judge = Judge(known)
        judge.see(70, total=traffic(100, 100))
        text = "error_rate: resolved: the rule was changed or removed"
        assert judge.alerts.replace(rules, judge.now) == [AlertChange(known, False, None, text)]
        assert not any(judge.alerts.firing.values())

    def test_texts(self) -> None:
        alerts = Alerts()
        rules = [rule("restarts", 1), rule("certificate_days", 14), rule("p99", 0.5, 1.0)]
        alerts.replace(rules, 0.0)
        alerts.update(TestRestarts.sample(a=0), {}, 1.0, 0.0)
        sample = TestRestarts.sample(a=1) | {"total": traffic(1, p99=0.75)}
        assert [change.text for change in alerts.update(sample, {"tls": DAY}, 2.0, 0.0)] == [
            "restarts: 1 restarts, threshold 1 (a)",
            "certificate_days: valid for 1.0 more days, threshold 14 (tls)",
            "p99: p99 0.75 s, threshold 0.5 s",
        ]
