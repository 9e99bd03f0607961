"""YAML trees compared with another YAML parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config.reading.yaml_tree import (
    SyntaxProblem,
    YamlMapping,
    YamlNode,
    YamlScalar,
    YamlSequence,
    parse,
    resolve,
)

texts = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"], exclude_characters="\ufeff\x85\u2028\u2029"
    ),
    max_size=8,
)
values = st.recursive(
    texts
    | st.integers(-(10**15), 10**15)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False, width=32),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


def plain(node: YamlNode) -> Any:
    if isinstance(node, YamlMapping):
        return {key: plain(value) for key, (_, value) in node.items.items()}
    if isinstance(node, YamlSequence):
        return [plain(item) for item in node.items]
    assert isinstance(node, YamlScalar)
    return node.text if node.quoted else resolve(node.text)


@given(values)
def test_json_is_read_as_json(value: Any) -> None:
    root, duplicates = parse(json.dumps(value, ensure_ascii=False))
    assert plain(root) == value
    assert duplicates == []


@given(values, st.booleans())
def test_every_node_has_the_position_of_its_text(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    lines = text.split("\n")

    def check(node: YamlNode) -> int:
        size = 1
        if isinstance(node, YamlMapping):
            for key, (place, below) in node.items.items():
                if place.text.isalnum() and place.text.isascii() and not place.quoted:
                    assert lines[place.line - 1][place.column - 1 :].startswith(key)
                size += 1 + check(below)
        elif isinstance(node, YamlSequence):
            size += sum(check(item) for item in node.items)
        else:
            assert isinstance(node, YamlScalar)
            if node.text.isalnum() and node.text.isascii() and not node.quoted:
                assert lines[node.line - 1][node.column - 1 :].startswith(node.text)
        assert node.size == size
        return size

    check(parse(text)[0])


@given(st.text(max_size=60) | st.text(alphabet="ab:- \n[]{}&*!'\",#|>?%@", max_size=60))
def test_any_text_is_a_tree_or_one_problem_with_a_position(text: str) -> None:
    try:
        root, _ = parse(text)
    except SyntaxProblem as problem:
        found = problem
    else:
        assert root.size >= 1
        return
    assert 1 <= found.line <= text.count("\n") + text.count("\r") + 2
    assert found.column >= 1
    assert found.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", ".inf"),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("٣", "٣"),
        ("9" * 19, float("9" * 19)),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    resolved = resolve(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_duplicates_have_the_position_of_the_first_key() -> None:
    _, duplicates = parse("a:\n  - {b: 1, c: {d: 1, d: 2}, b: 3}\nc: 1\nc: 2\n")
    assert [
        ((*found.parents, found.key.text), found.key.line, found.key.column, found.first.column) for found in duplicates
    ] == [(("a", 0, "c", "d"), 2, 22, 16), (("a", 0, "b"), 2, 29, 6), (("c",), 4, 1, 1)]
