"""The splits of a running gateway: their weights, which change without a reload, and what each side has done.

The supervisor owns them. It hands every change to all workers, and the weights in force to each worker that starts. A
reload keeps weights that were set at run time, unless the weights of that split in the file have changed. A rollout
holds the splits that it changes: nothing else changes their weights meanwhile.

The name of a split is the label of its route, such as ``/user/{id}``; that of a part is ``/overview#orders``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from passerelle.config.models.config import Config
from passerelle.crossing.latency import LatencyHistogram
from passerelle.crossing.sides import WHOLE, check_weights
from passerelle.observability.events import EventLog
from passerelle.observability.metrics import Snapshot
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound

Settings = dict[str, dict[str, Any]]
"""What workers receive: split to ``weights``, and ``slow_after`` in seconds or None."""

ROLLOUT: Final = "rollout"
"""The actor of changes by a rollout."""

OnChange = Callable[[str, Mapping[str, int], str, str], None]
"""Called with the split, the weights in force, the actor and the reason, after a change."""


@dataclass(frozen=True, slots=True)
class SideCounts:
    """The requests that a side has received, since the supervisor started: they never decrease.

    ``failed`` are those that ended with a 5xx response, without a response, or too late. ``failed_users`` and
    ``slow_users`` count the first failed or slow request of a user in a minute only. ``latency`` are the counts of a
    :class:`passerelle.crossing.latency.LatencyHistogram` of the times until the first byte of responses.
    """

    requests: int = 0
    failed: int = 0
    failed_users: int = 0
    slow_users: int = 0
    latency: tuple[int, ...] = ()


class Splits:
    """The splits of the configuration in force.

    ``send(settings)`` passes settings to all running workers. ``read()`` returns the merged counters of all workers,
    with those that have ended.
    """

    def __init__(
        self,
        config: Config,
        events: EventLog,
        log: Callable[[str], None],
        send: Callable[[Settings], Awaitable[None]],
        read: Callable[[], Awaitable[Snapshot]],
    ) -> None:
        self._file = config.splits
        self._set: dict[str, dict[str, int]] = {}
        self._slow_after: dict[str, float | None] = {}
        self._events = events
        self._log = log
        self._send = send
        self._read = read
        self._counts: dict[str, dict[str, SideCounts]] = {}
        self._lock = asyncio.Lock()
        self.on_change: list[OnChange] = []
        self.held: dict[str, str] = {}  # splits that a rollout changes, with the text for others that want to

    # What is in force

    def routes(self) -> list[str]:
        """Return the names of all splits."""
        return list(self._file)

    def weights(self, route: str) -> dict[str, int]:
        """Return the weights in force in per mille, the old side first. :raises NotFound: if there is no such split."""
        return dict(self._set.get(route, self.file_weights(route)))

    def all_weights(self) -> dict[str, dict[str, int]]:
        """Return the weights in force of all splits."""
        return {route: self.weights(route) for route in self._file}

    def file_weights(self, route: str) -> dict[str, int]:
        """Return the weights that the file gives. :raises NotFound: if there is no such split."""
        try:
            return dict(self._file[route])
        except KeyError:
            names = ", ".join(self._file) or "none"
            raise NotFound(f"no split on route {route!r}; routes with a split: {names}") from None

    # Changes

    async def set(self, route: str, weights: Mapping[str, int], *, actor: str, reason: str) -> dict[str, int]:
        """Put ``weights`` in force in all workers, from their next request on. Returns those of all sides.

        Sides that are not named have the weight 0; the old side, if it is not named, has the rest.

        :raises ChangeRefused: for an unknown split or side, or a sum that is not 1000; then nothing changes.
        """
        async with self._lock:
            wanted = self._complete(route, weights)
            if route in self.held and actor != ROLLOUT:
                raise ChangeRefused(self.held[route])
            before = self.weights(route)
            self._set[route] = wanted
            await self._send(self.settings())
            if wanted == before:
                return wanted
            shares = " ".join(f"{name}={weight}" for name, weight in wanted.items())
            text = f"{route}: {shares} ({actor}: {reason})" if reason else f"{route}: {shares} ({actor})"
            self._log(f"split of {text}")
            self._events.record("split", text, weights=wanted, before=before, by=actor, reason=reason)
        self._changed(route, wanted, actor, reason)
        return wanted

    def restore(self, route: str, weights: Mapping[str, int]) -> bool:
        """Put weights of an earlier run in force, before workers start. Returns False if they do not fit the file."""
        try:
            self._set[route] = self._complete(route, weights)
        except ChangeRefused:
            return False
        return True

    async def set_slow_after(self, route: str, seconds: float | None) -> None:
        """Count requests that take longer than ``seconds`` until the first byte as slow; None for none.

        :raises NotFound: if there is no such split.
        """
        self.file_weights(route)
        self._slow_after[route] = seconds
        await self._send(self.settings())

    def _complete(self, route: str, weights: Mapping[str, int]) -> dict[str, int]:
        known = self.file_weights(route)
        unknown = [name for name in weights if name not in known]
        if unknown:
            raise InvalidChange(f"{route} has no side {unknown[0]!r}; its sides are: {', '.join(known)}")
        old = next(iter(known))
        others = {name: weights.get(name, 0) for name in known if name != old}
        wanted = {old: weights.get(old, WHOLE - sum(others.values())), **others}
        try:
            check_weights(wanted)
        except ValueError as error:
            raise InvalidChange(f"{route}: {error}") from None
        return wanted

    def _changed(self, route: str, weights: Mapping[str, int], actor: str, reason: str) -> None:
        for listener in self.on_change:
            listener(route, weights, actor, reason)

    # Workers

    def settings(self, config: Config | None = None) -> Settings:
        """Return what workers receive, for ``config`` or for the configuration in force."""
        file = self._file if config is None else config.splits
        return {
            route: {"weights": self._kept(route, weights), "slow_after": self._slow_after.get(route)}
            for route, weights in file.items()
        }

    def _kept(self, route: str, in_file: dict[str, int]) -> dict[str, int]:
        """Return the weights in force once a file has the weights ``in_file``."""
        before = self._file.get(route)
        if before is None or list(before) != list(in_file):
            return in_file
        return self.weights(route) if before == in_file or route in self.held else in_file

    async def adopt(self, config: Config) -> None:
        """Take over the splits of a configuration that the workers have applied."""
        before = {route: self.weights(route) for route in self._file}
        file = config.splits
        kept = {route: self._kept(route, weights) for route, weights in file.items()}
        self._set = {route: weights for route, weights in kept.items() if weights != file[route] or route in self.held}
        self._slow_after = {route: seconds for route, seconds in self._slow_after.items() if route in file}
        self._file = file
        await self._send(self.settings())
        for route in file:
            now = self.weights(route)
            if now != before.get(route, file[route]):
                self._changed(route, now, "file", "reloaded")

    # Counts

    async def read(self) -> None:
        """Read the counts of all workers, for :meth:`counts`."""
        self.update((await self._read())["splits"])

    def update(self, snapshot: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take over the merged counts of all workers. A worker that does not reply does not make them smaller."""
        for route, sides in snapshot.items():
            known = self._counts.setdefault(route, {})
            for side, found in sides.items():
                counts = SideCounts(**{**found, "latency": tuple(found["latency"])})
                if side not in known or counts.requests >= known[side].requests:
                    known[side] = counts

    def counts(self, route: str) -> Mapping[str, SideCounts]:
        """Return the counts of each side, as :meth:`read` found them. :raises NotFound: if there is no such split."""
        known = self._counts.get(route, {})
        return {side: known.get(side, SideCounts()) for side in self.file_weights(route)}


# What the admin port shows and takes


async def split_report(splits: Splits, route: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the weights and the counts of the split ``route``, or of all. :raises NotFound: if there is no such split.

    ``file`` has the weights of the file; ``p50`` is the median time until the first byte in seconds, or None.
    """
    routes = splits.routes() if route is None else [route]
    for name in routes:
        splits.weights(name)
    await splits.read()
    return {
        name: {
            "weights": splits.weights(name),
            "file": splits.file_weights(name),
            "held": splits.held.get(name),
            "sides": {side: _shown(counts) for side, counts in splits.counts(name).items()},
        }
        for name in routes
    }


def _shown(counts: SideCounts) -> dict[str, Any]:
    return {
        "requests": counts.requests,
        "failed": counts.failed,
        "failed_users": counts.failed_users,
        "slow_users": counts.slow_users,
        "p50": LatencyHistogram(counts.latency).quantile(0.5),
    }


async def change_split(splits: Splits, arguments: Mapping[str, str], actor: str) -> dict[str, Any]:
    """Change weights by a request to the admin port.

    It has a ``route``, ``weights`` such as ``users=100,monolith=900``, and perhaps a ``reason``.

    :raises ChangeRefused: if the arguments are invalid, or the change cannot be made.
    """
    unknown = arguments.keys() - {"route", "weights", "reason"}
    if unknown or not arguments.get("route"):
        raise InvalidChange("split needs route and weights, and takes a reason")
    route, wanted = arguments["route"], {}
    splits.weights(route)
    for word in arguments.get("weights", "").split(","):
        side, _, number = word.partition("=")
        if not number.isascii() or not number.isdigit() or side in wanted:
            raise InvalidChange(f"found {word[:100]!r}; allowed is SIDE=N with N from 0 to {WHOLE}, in per mille")
        wanted[side] = int(number[:9])
    now = await splits.set(route, wanted, actor=actor, reason=arguments.get("reason", "")[:200])
    return {"message": f"{route}: {' '.join(f'{name}={weight}' for name, weight in now.items())}", "weights": now}
