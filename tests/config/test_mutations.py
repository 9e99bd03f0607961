"""Randomly damaged files: each gives a configuration or errors with positions, never an exception."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.config import LoadReport, inspect_text
from tests.config.test_loader import FULL

GOOD: dict[str, Any] = yaml.load(FULL, Loader=yaml.BaseLoader)
DUMPER = getattr(yaml, "CDumper", yaml.Dumper)  # writes the same text in a tenth of the time

words = st.sampled_from(
    [
        *("", "null", "off", "x", "a b", "-1", "0", "5", "1.5", "3s", "10MiB", "GET", "user", "true", "*", "é"),
        *("/", "/{a}", "/{a*}", "{port}", "${X}", "${", "http://h:1", "127.0.0.1:80", "a:b"),
    ]
)
junk = st.recursive(
    words, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2), max_leaves=4
)


def places(node: Any, loc: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [loc, *(place for key, value in below for place in places(value, (*loc, key)))]


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    data = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        loc = draw(st.sampled_from([place for place in places(data) if place] or [("x",)]))
        owner = data
        for step in loc[:-1]:
            owner = owner[step]
        action = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if action == "replace" or not isinstance(owner, dict):
            if isinstance(owner, dict | list) and (loc[-1] in owner if isinstance(owner, dict) else owner):
                owner[loc[-1]] = draw(junk)
        elif action == "remove":
            owner.pop(loc[-1], None)
        elif action == "rename":
            owner[draw(words)] = owner.pop(loc[-1], "x")
        else:
            owner[draw(words)] = draw(junk)
    return data


def judge(text: str) -> LoadReport:
    report = inspect_text(text, environ={}, elsewhere=True)
    assert (report.config is None) == bool(report.errors)
    lines = text.split("\n")
    for problem in (*report.errors, *report.warnings):
        assert 1 <= problem.line <= len(lines) + 1
        assert problem.column >= 1
        assert problem.message
        assert "\n" not in str(problem)
    return report


@settings(max_examples=300)
@given(damaged(), st.booleans())
def test_a_damaged_file_gives_errors_with_positions(data: Any, flow: bool) -> None:
    judge(yaml.dump(data, Dumper=DUMPER, default_flow_style=flow, sort_keys=False, width=10**6))


@settings(max_examples=200)
@given(st.integers(0, len(FULL) - 1), st.integers(0, 6), st.text(alphabet="{}[]:,'\"- \n#&*!|>%@a1$", max_size=3))
def test_a_damaged_text_gives_errors_with_positions(start: int, length: int, instead: str) -> None:
    judge(FULL[:start] + instead + FULL[start + length :])


def test_the_undamaged_file_is_valid() -> None:
    assert judge(FULL).config is not None
