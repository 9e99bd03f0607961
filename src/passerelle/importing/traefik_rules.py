"""Rules of Traefik's routers: matchers joined by `&&` and `||`, as alternatives that each become a route."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from passerelle.routing.linear_pattern import LinearPatternError, linear_pattern

_TOKEN = re.compile(
    r"\s*+(?:(&&)|(\|\|)|([!()])|([A-Za-z]++)\s*+\(((?:`[^`]*+`|\"[^\"]*+\"|'[^']*+'|[\s,]++)*+)\))"
).match
_VALUE = re.compile(r"`([^`]*)`|\"([^\"]*)\"|'([^']*)'")
_MOST_ALTERNATIVES = 64
_LONGEST = 8192


class RuleError(Exception):
    """The rule has no counterpart. The text states why."""


@dataclass(frozen=True, slots=True)
class Match:
    """One alternative of a rule. ``paths`` are pairs: the path, and whether it is the beginning of paths.

    ``conditions`` are those of ``match`` of a route: by kind, and by name where the kind has names.
    """

    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[tuple[str, bool], ...] = field(default=())
    conditions: Mapping[str, Any] = field(default_factory=dict)


def parse_rule(text: str) -> list[Match]:
    """Return the alternatives of a rule.

    :raises RuleError: if it has no counterpart.
    """
    tokens, position, text = [], 0, text.strip()
    if len(text) > _LONGEST:
        raise RuleError("the rule is too long")
    while position < len(text):
        match = _TOKEN(text, position)
        if match is None:
            raise RuleError("the rule cannot be read")
        tokens.append(match)
        position = match.end()
    alternatives, rest = _either(tokens)
    if rest or not alternatives:
        raise RuleError("the rule cannot be read")
    return alternatives


Tokens = list[re.Match[str]]


def _either(tokens: Tokens) -> tuple[list[Match], Tokens]:
    found, tokens = _both(tokens)
    while tokens and tokens[0][2]:
        more, tokens = _both(tokens[1:])
        found = [*found, *more]
    if len(found) > _MOST_ALTERNATIVES:
        raise RuleError("the rule has too many alternatives")
    return found, tokens


def _both(tokens: Tokens) -> tuple[list[Match], Tokens]:
    found, tokens = _one(tokens)
    while tokens and tokens[0][1]:
        more, tokens = _one(tokens[1:])
        if len(found) * len(more) > _MOST_ALTERNATIVES:
            raise RuleError("the rule has too many alternatives")
        found = [_joined(left, right) for left, right in product(found, more)]
    return found, tokens


def _one(tokens: Tokens) -> tuple[list[Match], Tokens]:
    if not tokens:
        raise RuleError("the rule cannot be read")
    first = tokens[0]
    if first[3] == "(":
        found, rest = _either(tokens[1:])
        if not rest or rest[0][3] != ")":
            raise RuleError("the rule cannot be read")
        return found, rest[1:]
    if first[3] == "!":
        raise RuleError("negations have no counterpart")
    if not first[4]:
        raise RuleError("the rule cannot be read")
    return [_matcher(first[4], ["".join(groups) for groups in _VALUE.findall(first[5])])], tokens[1:]


def _matcher(name: str, values: list[str]) -> Match:
    kind = name.lower()
    if not values:
        raise RuleError(f"{name} has no value")
    if kind == "host":
        return Match(hosts=tuple(values))
    if kind == "method":
        return Match(methods=tuple(value.upper() for value in values))
    if kind in ("path", "pathprefix"):
        return Match(paths=tuple((value, kind == "pathprefix") for value in values))
    if kind == "clientip":
        return Match(conditions={"clients": values})
    keys = {"header": "headers", "headers": "headers", "query": "query"}
    patterns = {"headerregexp": "headers", "headersregexp": "headers", "queryregexp": "query"}
    if kind in keys and len(values) == 2:
        return Match(conditions={keys[kind]: {values[0]: values[1]}})
    if kind in patterns and len(values) == 2:
        return Match(conditions={patterns[kind]: {values[0]: {"pattern": _pattern(values[1])}}})
    raise RuleError(f"{name} has no counterpart")


def _pattern(expression: str) -> str:
    """Return the pattern of the whole value for an expression that is searched in it."""
    flag = "(?i)" if expression.startswith("(?i)") else ""
    inner = expression.removeprefix("(?i)")
    begins, ends = inner.startswith("^"), inner.endswith("$") and not inner.endswith("\\$")
    core = inner[begins : len(inner) - ends]
    if "|" in core and (begins or ends):
        raise RuleError("an expression with ^ or $ and alternatives has no counterpart")
    core = f"(?:{core})" if "|" in core else core
    pattern = f"{flag}{'' if begins else '.*'}{core}{'' if ends else '.*'}"
    try:
        linear_pattern(pattern)
    except LinearPatternError as error:
        raise RuleError(f"the expression {expression!r} has no counterpart: {error}") from None
    return pattern


def _both_conditions(left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
    found = dict(left)
    for kind, wanted in right.items():
        known = found.get(kind)
        if known is not None and (kind == "clients" or {n.lower() for n in known} & {n.lower() for n in wanted}):
            raise RuleError("two matchers of one kind joined by && have no counterpart")
        found[kind] = wanted if known is None else {**known, **wanted}
    return found


def _joined(left: Match, right: Match) -> Match:
    for one, other in ((left.hosts, right.hosts), (left.methods, right.methods), (left.paths, right.paths)):
        if one and other:
            raise RuleError("two matchers of one kind joined by && have no counterpart")
    return replace(
        left,
        hosts=left.hosts or right.hosts,
        methods=left.methods or right.methods,
        paths=left.paths or right.paths,
        conditions=_both_conditions(left.conditions, right.conditions),
    )
