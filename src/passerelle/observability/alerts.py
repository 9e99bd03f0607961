"""Alerts: conditions on the samples of the live view. Pure: state is bounded, and the time is an argument.

All times are in seconds. ``now`` is that of a monotonic clock; the ends of certificates and ``wall`` are since 1970.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Literal, NamedTuple

Measure = Literal["error_rate", "p99", "certificate_days", "restarts"]

DAY = 86_400.0
_LONGEST_STEP = 5.0  # seconds that one sample stands for at most: there are none while the process is paused
_NAMED = 5  # instances, workers or certificates that a text names


@dataclass(frozen=True, slots=True)
class AlertRule:
    """A condition.

    ``threshold`` is a share (error_rate), seconds (p99), days (certificate_days) or a number (restarts). ``window`` is
    the time that is judged, in seconds. ``requests`` is the number of requests in it without which there is no error
    rate. Without ``route`` and ``service``, the rule is about the whole gateway.
    """

    name: str
    measure: Measure
    threshold: float
    window: float
    requests: int
    route: str | None
    service: str | None


class AlertChange(NamedTuple):
    """An alert fires or is resolved. ``value`` is None if there is none any more."""

    rule: AlertRule
    is_firing: bool
    value: float | None
    text: str


class _Reading(NamedTuple):
    """The value of a rule, None if it is not known, and the name of its subject in words."""

    value: float | None
    holds: bool
    about: str = ""


class _RuleState:
    """The values of one rule within its window."""

    def __init__(self, rule: AlertRule, now: float) -> None:
        self.rule = rule
        self.is_firing = False
        self._since = now
        self._held = now  # when the condition held last
        self._values: deque[tuple[float, float, float]] = deque()  # time, and requests and errors, or p99
        self._restarts: dict[str, int] = {}
        self._restarted: dict[str, deque[float]] = {}

    def update(
        self, sample: Mapping[str, Any], ends: Mapping[str, float], now: float, step: float, wall: float
    ) -> AlertChange | None:
        """Judge the next sample, which stands for ``step`` seconds."""
        rule = self.rule
        if rule.measure == "certificate_days":
            reading = self._certificates(ends, wall)
        elif rule.measure == "restarts":
            reading = self._count_restarts(sample, now)
        else:
            reading = self._measured(self._scope(sample), now, step)
        if reading.holds:
            self._held = now
        # Resolved only when the condition has not held for a while, so that an alert does not come and go.
        calm = rule.measure == "certificate_days" or now - self._held >= rule.window
        if reading.holds == self.is_firing or (self.is_firing and not calm):
            return None
        self.is_firing = reading.holds
        return AlertChange(rule, self.is_firing, reading.value, _text(rule, reading))

    def _scope(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.rule.route is not None:
            found = sample.get("routes", {}).get(self.rule.route)
        elif self.rule.service is not None:
            found = sample.get("services", {}).get(self.rule.service)
        else:
            found = sample.get("total")
        return found if found is not None else {}

    def _measured(self, values: Mapping[str, Any], now: float, step: float) -> _Reading:
        rule, kept = self.rule, self._values
        if rule.measure == "error_rate":
            kept.append((now, values.get("requests", 0.0) * step, values.get("errors", 0.0) * step))
        elif "p99" in values:
            kept.append((now, values["p99"], 0.0))
        while kept and kept[0][0] <= now - rule.window:
            kept.popleft()
        value = None
        if rule.measure == "error_rate":
            requests = sum(entry[1] for entry in kept)
            if requests >= rule.requests - 0.5:  # rates are rounded
                value = min(1.0, sum(entry[2] for entry in kept) / requests)
        elif kept:
            value = median_low(entry[1] for entry in kept)
        complete = now - self._since >= rule.window
        return _Reading(value, value is not None and value > rule.threshold and complete)

    def _count_restarts(self, sample: Mapping[str, Any], now: float) -> _Reading:
        """Count the restarts of each instance and worker within the window; the value is the highest number."""
        threshold, window = int(self.rule.threshold), self.rule.window
        current = _restarts_of(sample, self.rule.service)
        for name, count in current.items():
            known = self._restarts.get(name, count)
            if count > known:
                times = self._restarted.setdefault(name, deque(maxlen=threshold))
                times.extend([now] * min(count - known, threshold))
        self._restarts = current
        for name, times in list(self._restarted.items()):
            while times and times[0] <= now - window:
                times.popleft()
            if not times or name not in current:
                del self._restarted[name]
        worst = max(map(len, self._restarted.values()), default=0)
        names = [name for name, times in self._restarted.items() if len(times) >= threshold]
        return _Reading(worst, bool(names), _listed(names))

    def _certificates(self, ends: Mapping[str, float], wall: float) -> _Reading:
        left = {place: (end - wall) / DAY for place, end in ends.items()}
        near = [place for place, days in left.items() if days <= self.rule.threshold]
        return _Reading(min(left.values(), default=None), bool(near), _listed(near))


def _restarts_of(sample: Mapping[str, Any], service: str | None) -> dict[str, int]:
    services = sample.get("services", {})
    chosen = services.values() if service is None else [services.get(service, {})]
    groups = [values.get("instances", {}) for values in chosen]
    if service is None:
        groups.append(sample.get("workers", {}))
    return {name: state["restarts"] for group in groups for name, state in group.items() if "restarts" in state}


class Alerts:
    """Judges samples by the current rules."""

    def __init__(self) -> None:
        self._states: dict[str, _RuleState] = {}
        self._last: float | None = None

    @property
    def firing(self) -> dict[str, bool]:
        """Whether each alert fires, by name."""
        return {name: state.is_firing for name, state in self._states.items()}

    def replace(self, rules: Iterable[AlertRule], now: float) -> list[AlertChange]:
        """Judge by ``rules`` from now on. An unchanged rule keeps its state. Alerts without a rule are resolved."""
        before = self._states
        self._states = {}
        for rule in rules:
            known = before.get(rule.name)
            same = known is not None and known.rule == rule
            self._states[rule.name] = known if known is not None and same else _RuleState(rule, now)
        return [
            AlertChange(state.rule, False, None, f"{name}: resolved: the rule was changed or removed")
            for name, state in before.items()
            if state.is_firing and self._states.get(name) is not state
        ]

    def update(
        self, sample: Mapping[str, Any], ends: Mapping[str, float], now: float, wall: float
    ) -> list[AlertChange]:
        """Judge the next sample of the live view, and the ``ends`` of certificates by their place."""
        step = min(now - self._last, _LONGEST_STEP) if self._last is not None else 1.0
        self._last = now
        changes = [state.update(sample, ends, now, step, wall) for state in self._states.values()]
        return [change for change in changes if change is not None]


def _text(rule: AlertRule, reading: _Reading) -> str:
    if reading.holds:
        about = f" ({reading.about})" if reading.about else ""
        return f"{rule.name}: {_value_text(rule, reading.value)}{about}"
    return f"{rule.name}: resolved: {_value_text(rule, reading.value)}"


def _value_text(rule: AlertRule, value: float | None) -> str:
    if value is None:
        return "no value any more"
    match rule.measure:
        case "error_rate":
            return f"error rate {value:.3g} of 1, threshold {rule.threshold:g}"
        case "p99":
            return f"p99 {value:.3g} s, threshold {rule.threshold:g} s"
        case "restarts":
            return f"{value:g} restarts, threshold {rule.threshold:g}"
        case "certificate_days":
            return f"valid for {value:.1f} more days, threshold {rule.threshold:g}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
