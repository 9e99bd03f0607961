"""Which JSON documents count as equal, and how differences are reported."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.crossing.compare_json import (
    MAX_DEPTH,
    MAX_DIFFERENCES,
    MAX_VALUES,
    Incomparable,
    JsonComparer,
    JsonRules,
    Tolerance,
)
from passerelle.crossing.paths import fold, parse_pattern, pointer

CENT = Tolerance(absolute=0.01)
PERCENT = Tolerance(relative=0.01)


def rules(**texts: Any) -> JsonRules:
    """Make rules of patterns as text."""
    ignore, unordered = (tuple(map(parse_pattern, texts.pop(name, ()))) for name in ("ignore", "unordered"))
    tolerances = tuple((parse_pattern(text), value) for text, value in texts.pop("tolerances", {}).items())
    return JsonRules(ignore, unordered, tolerances, **texts)


def found(old: str, new: str, by: JsonRules) -> list[str]:
    """Return the differences as lines."""
    differences = JsonComparer(by).compare(orjson.loads(old), orjson.loads(new))
    return [f"{pointer(path)} {kind.value}" for path, kind, _, _ in differences]


PLAIN = rules()
NUMBERS = rules(numbers_as_text=True)
NULLS = rules(null_is_absent=True)
ITEMS = rules(unordered=["/items"])
CASES: list[tuple[str, str, JsonRules, list[str]]] = [
    # ---- the same values, written in other ways
    ("1", "1", PLAIN, []),
    ('{"a": 1, "b": 2}', '{"b":2,"a":1}', PLAIN, []),
    ('{"a": {"b": 1, "c": [1, 2]}}', '{"a":{"c":[1,2],"b":1}}', PLAIN, []),
    ('"\\u00e9"', '"é"', PLAIN, []),
    ("1", "1.0", PLAIN, []),
    ("10", "1e1", PLAIN, []),
    ("0", "-0.0", PLAIN, []),
    ("0.1", "0.10000000000000000555", PLAIN, []),
    ("[]", "[ ]", PLAIN, []),
    ("{}", "{ }", PLAIN, []),
    # ---- other values
    ("1", "2", PLAIN, [" value"]),
    ('"a"', '"A"', PLAIN, [" value"]),
    ('"a"', '"a "', PLAIN, [" value"]),
    ('"é"', '"e\\u0301"', PLAIN, [" value"]),
    ("true", "false", PLAIN, [" value"]),
    ('{"a": 1}', '{"a": 2}', PLAIN, ["/a value"]),
    ('{"a": {"b": [{"c": 1}]}}', '{"a": {"b": [{"c": 2}]}}', PLAIN, ["/a/b/*/c value"]),
    ("9007199254740993", "9007199254740992", PLAIN, [" value"]),
    ("0.1", "0.1000001", PLAIN, [" value"]),
    # ---- other types
    ("1", '"1"', PLAIN, [" type"]),
    ("1", "true", PLAIN, [" type"]),
    ("0", "false", PLAIN, [" type"]),
    ("1.0", "true", PLAIN, [" type"]),
    ("null", "0", PLAIN, [" type"]),
    ("null", '""', PLAIN, [" type"]),
    ("null", "false", PLAIN, [" type"]),
    ("[]", "{}", PLAIN, [" type"]),
    ("[1]", "1", PLAIN, [" type"]),
    ('{"price": 12.5}', '{"price": "12.50"}', PLAIN, ["/price type"]),
    ('{"a": null}', '{"a": []}', PLAIN, ["/a type"]),
    # ---- absent members and elements
    ('{"a": 1}', "{}", PLAIN, ["/a missing"]),
    ("{}", '{"a": 1}', PLAIN, ["/a added"]),
    ('{"a": null}', "{}", PLAIN, ["/a missing"]),
    ("{}", '{"a": null}', PLAIN, ["/a added"]),
    ('{"a": 1}', '{"b": 1}', PLAIN, ["/a missing", "/b added"]),
    ("[1, 2]", "[1]", PLAIN, ["/* missing"]),
    ("[1]", "[1, 2]", PLAIN, ["/* added"]),
    ("[1, 2, 3]", "[2, 3]", PLAIN, ["/* value", "/* value", "/* missing"]),
    # ---- order
    ("[1, 2]", "[2, 1]", PLAIN, [" order"]),
    ('{"a": [{"id": 1}, {"id": 2}]}', '{"a": [{"id": 2}, {"id": 1}]}', PLAIN, ["/a order"]),
    ("[1, 2, 2]", "[2, 1, 1]", PLAIN, ["/* value", "/* value", "/* value"]),
    ('{"items": [1, 2, 3]}', '{"items": [3, 1, 2]}', ITEMS, []),
    ('{"items": [1, 2, 3]}', '{"items": [3, 1, 4]}', ITEMS, ["/items/* value"]),
    ('{"items": [1, 1, 2]}', '{"items": [1, 2, 2]}', ITEMS, ["/items/* value"]),
    ('{"items": [1, 2]}', '{"items": [2]}', ITEMS, ["/items/* missing"]),
    ('{"items": [2]}', '{"items": [2, 1]}', ITEMS, ["/items/* added"]),
    ('{"items": [1, 1.0]}', '{"items": [1.0, 1]}', ITEMS, []),
    ('{"items": [9007199254740993]}', '{"items": [9007199254740992]}', ITEMS, ["/items/* value"]),
    ('{"items": [{"a": 1, "b": 2}, {"a": 2}]}', '{"items": [{"a": 2}, {"b": 2, "a": 1}]}', ITEMS, []),
    ('{"items": [[1, 2]]}', '{"items": [[2, 1]]}', ITEMS, ["/items/* order"]),
    ('{"items": [[1, 2], [3]]}', '{"items": [[3], [2, 1]]}', rules(unordered=["/items", "/items/*"]), []),
    ('{"a": {"tags": [1, 2]}}', '{"a": {"tags": [2, 1]}}', rules(unordered=["/**/tags"]), []),
    ("[1, 2]", "[2, 1]", rules(unordered=[""]), []),
    (
        '{"items": [{"id": 1, "p": 2}, {"id": 2, "p": 3}]}',
        '{"items": [{"id": 2, "p": "3"}, {"id": 1, "p": 2}]}',
        ITEMS,
        ["/items/*/p type"],
    ),
    # ---- ignored paths
    ('{"at": 1, "a": 1}', '{"at": 2, "a": 1}', rules(ignore=["/at"]), []),
    ('{"at": 1}', "{}", rules(ignore=["/at"]), []),
    ("{}", '{"at": 1}', rules(ignore=["/at"]), []),
    ('{"at": {"x": 1}}', '{"at": 2}', rules(ignore=["/at"]), []),
    ('{"at": 1, "b": {"at": 1}}', '{"at": 1, "b": {"at": 2}}', rules(ignore=["/at"]), ["/b/at value"]),
    ('{"b": [{"at": 1}]}', '{"b": [{"at": 2}]}', rules(ignore=["/**/at"]), []),
    ('{"b": [{"at": 1}]}', '{"b": [{"at": 2}]}', rules(ignore=["/b/*/at"]), []),
    ("[1, 2]", "[1, 3]", rules(ignore=["/1"]), []),
    ("[1, 2]", "[2, 2]", rules(ignore=["/1"]), ["/* value"]),
    ("[1]", "[1, 2]", rules(ignore=["/*"]), []),
    ('{"a/b": 1, "c~d": 1}', '{"a/b": 2, "c~d": 2}', rules(ignore=["/a~1b", "/c~0d"]), []),
    (
        '{"items": [{"at": 1, "a": 1}]}',
        '{"items": [{"at": 2, "a": 1}]}',
        rules(unordered=["/items"], ignore=["/**/at"]),
        [],
    ),
    ("1", "2", rules(ignore=[""]), []),
    # ---- tolerances
    ('{"p": 1.00}', '{"p": 1.01}', rules(tolerances={"/p": CENT}), []),
    ('{"p": 1.00}', '{"p": 1.02}', rules(tolerances={"/p": CENT}), ["/p value"]),
    ('{"p": 100, "q": 100}', '{"p": 101, "q": 101}', rules(tolerances={"/p": PERCENT}), ["/q value"]),
    ('{"p": 0}', '{"p": 0.001}', rules(tolerances={"/p": PERCENT}), ["/p value"]),
    ('{"p": 1}', '{"p": true}', rules(tolerances={"/p": CENT}), ["/p type"]),
    ('{"p": [{"q": 1}]}', '{"p": [{"q": 1.005}]}', rules(tolerances={"/**/q": CENT}), []),
    (
        '{"items": [1.00, 2.00]}',
        '{"items": [2.005, 1.005]}',
        rules(unordered=["/items"], tolerances={"/items/*": CENT}),
        [],
    ),
    ('{"p": 1}', '{"p": 1.5}', rules(tolerances={"/p": Tolerance(absolute=1), "/*": CENT}), []),
    # ---- numbers as text
    ('{"p": 12.5}', '{"p": "12.50"}', NUMBERS, []),
    ('{"p": "12.5"}', '{"p": "12.50"}', NUMBERS, []),
    ('{"p": 12.5}', '{"p": "12.51"}', NUMBERS, ["/p value"]),
    ('{"p": 12.5}', '{"p": "12.5 "}', NUMBERS, ["/p type"]),
    ('{"p": 12.5}', '{"p": "0x0c"}', NUMBERS, ["/p type"]),
    ('{"p": 1}', '{"p": "01"}', NUMBERS, ["/p type"]),
    ('{"p": 1}', '{"p": ""}', NUMBERS, ["/p type"]),
    ('{"p": 1}', '{"p": "true"}', NUMBERS, ["/p type"]),
    ('{"p": 1}', '{"p": "NaN"}', NUMBERS, ["/p type"]),
    ('{"items": [1, 2]}', '{"items": ["2", "1"]}', rules(unordered=["/items"], numbers_as_text=True), []),
    # ---- null against absent
    ('{"a": null}', "{}", NULLS, []),
    ("{}", '{"a": null}', NULLS, []),
    ('{"a": null}', '{"a": 0}', NULLS, ["/a type"]),
    ("[null]", "[]", NULLS, ["/* missing"]),
    ('{"items": [{"a": null, "b": 1}]}', '{"items": [{"b": 1}]}', rules(unordered=["/items"], null_is_absent=True), []),
    # ---- member names that look like data do not appear
    ('{"ada@example.com": 1}', '{"ada@example.com": 2}', PLAIN, ["/* value"]),
    ('{"0192f3-aa": {"p": 1}}', '{"0192f3-aa": {"p": 2}}', PLAIN, ["/*/p value"]),
    ('{"*": 1}', '{"*": 2}', PLAIN, ["/* value"]),
    ('{"line2": 1}', '{"line2": 2}', PLAIN, ["/line2 value"]),
]


def test_there_are_at_least_sixty_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize(("old", "new", "by", "expected"), CASES)
def test_differences(old: str, new: str, by: JsonRules, expected: list[str]) -> None:
    assert found(old, new, by) == expected


@pytest.mark.parametrize(("old", "new", "by", "expected"), CASES)
def test_the_other_direction_finds_the_same_places(old: str, new: str, by: JsonRules, expected: list[str]) -> None:
    turned = {"missing": "added", "added": "missing"}
    wanted = sorted(f"{line.split(' ')[0]} {turned.get(line.split(' ')[1], line.split(' ')[1])}" for line in expected)
    if not any(pattern[1].relative for pattern in by.tolerances):  # a share of the old number is not symmetric
        assert sorted(found(new, old, by)) == wanted


# ---- properties

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
) | st.text(max_size=8)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)
EVERYWHERE = rules(unordered=["/**"])


def shuffled(value: Any, source: random.Random, arrays: bool) -> Any:
    """Return ``value`` with its members, and with ``arrays`` its elements too, in another order."""
    if isinstance(value, dict):
        names = list(value)
        source.shuffle(names)
        return {name: shuffled(value[name], source, arrays) for name in names}
    if isinstance(value, list):
        elements = [shuffled(element, source, arrays) for element in value]
        if arrays:
            source.shuffle(elements)
        return elements
    return value


@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_a_document_equals_itself_with_its_members_in_any_order(document: Any, source: random.Random) -> None:
    assert JsonComparer(PLAIN).compare(document, shuffled(document, source, arrays=False)) == []


@given(DOCUMENTS, st.randoms(use_true_random=False))
def test_a_document_equals_itself_with_unordered_arrays_in_any_order(document: Any, source: random.Random) -> None:
    assert JsonComparer(EVERYWHERE).compare(document, shuffled(document, source, arrays=True)) == []


@given(DOCUMENTS, DOCUMENTS)
def test_documents_without_a_difference_have_the_same_values(old: Any, new: Any) -> None:
    equal = JsonComparer(PLAIN).compare(old, new) == []
    assert equal == (normal(old) == normal(new))


def normal(value: Any) -> Any:
    """Return ``value`` such that only equal JSON values are equal in Python (where True equals 1)."""
    if isinstance(value, dict):
        return {name: normal(member) for name, member in value.items()}
    if isinstance(value, list):
        return [normal(element) for element in value]
    return (isinstance(value, bool), value)


# ---- bounds


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_documents_that_are_too_deep_are_not_compared() -> None:
    assert JsonComparer(PLAIN).compare(nested(MAX_DEPTH), nested(MAX_DEPTH)) == []
    for by in PLAIN, EVERYWHERE:
        with pytest.raises(Incomparable, match="too deep"):
            JsonComparer(by).compare(nested(MAX_DEPTH + 1), nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("by", [PLAIN, EVERYWHERE])
def test_documents_with_too_many_values_are_not_compared(by: JsonRules) -> None:
    with pytest.raises(Incomparable, match="too many values"):
        JsonComparer(by).compare([0] * MAX_VALUES, [1] * MAX_VALUES)


def test_the_number_of_differences_is_bounded() -> None:
    assert len(found(str([0] * 1000), str([1] * 1000), PLAIN)) == MAX_DIFFERENCES


@pytest.mark.parametrize("text", ["a", "/a/~", "/a~2"])
def test_a_wrong_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        parse_pattern(text)


@given(st.lists(st.text(alphabet="ab/~*", max_size=3), min_size=1, max_size=4))
def test_a_pointer_is_read_back(segments: list[str]) -> None:
    assert parse_pattern(pointer(tuple(segments))) == tuple(segments)


@pytest.mark.parametrize("name", ["", "ada@example.com", "12", "a b", "x" * 50, "u1234", "é", "4f1c", "a.b"])
def test_names_that_look_like_data_are_folded(name: str) -> None:
    assert fold(name) == "*"


@pytest.mark.parametrize("name", ["id", "user_id", "firstName", "@id"[1:], "x-rate", "line2", "$ref"])
def test_other_names_are_kept(name: str) -> None:
    assert fold(name) == name
