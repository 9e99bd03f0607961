"""Builds the shadow requests of routes from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from passerelle.config.models.config import Config, Route
from passerelle.config.models.shadow import Compare
from passerelle.crossing.compare_json import JsonRules, Tolerance
from passerelle.crossing.compare_responses import ResponseComparer
from passerelle.crossing.paths import parse_pattern
from passerelle.upstream.request import CallPolicy
from passerelle.upstream.shadow import CREDENTIALS, Shadow, ShadowResults, ShadowSettings


def with_shadow(
    config: Config, route: Route, policy: CallPolicy, shadow: CallPolicy | None, results: Callable[[str], ShadowResults]
) -> CallPolicy:
    """Return ``policy`` with the shadow requests of ``route``, made by the policy ``shadow``; unchanged without one."""
    block = route.shadow
    if block is None or shadow is None:
        return policy
    removed = set(() if block.credentials else CREDENTIALS)
    if config.keys is not None and not block.credentials:
        removed.add(config.keys.header.lower().encode("ascii"))
    settings = ShadowSettings(
        block.sample,
        frozenset(method.encode("ascii") for method in block.methods),
        block.control,
        block.max_body,
        block.concurrency,
        frozenset(removed),
    )
    return replace(
        policy, make_request=Shadow(policy, shadow, settings, _comparer(block.compare), results(route.label))
    )


def _comparer(rules: Compare) -> ResponseComparer:
    return ResponseComparer(
        JsonRules(
            tuple(parse_pattern(path) for path in rules.ignore),
            tuple(parse_pattern(path) for path in rules.unordered),
            tuple((parse_pattern(path), _tolerance(value)) for path, value in rules.tolerance.items()),
            rules.numbers_as_text,
            rules.null_is_absent,
        ),
        tuple(name.lower().encode("ascii") for name in rules.headers),
    )


def _tolerance(value: float | str) -> Tolerance:
    if isinstance(value, str):
        return Tolerance(relative=float(value[:-1]) / 100)
    return Tolerance(absolute=value)
