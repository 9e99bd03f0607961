"""Patterns over what clients send, against :mod:`re` as a reference."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.routing.linear_pattern import MAX_LENGTH, LinearPattern, LinearPatternError

_ATOMS = st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", "[a-c]", r"\d", r"\.", "1", "[]a]", "[-b]", r"[\d-]"])
PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.builds("({}){}".format, inner, st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "{1,}"])),
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
    ),
    max_leaves=6,
)
VALUES = st.text("abc1.-]", max_size=8).map(str.encode)


@given(PATTERNS, st.lists(VALUES, max_size=20))
def test_it_matches_what_re_matches(text: str, values: list[bytes]) -> None:
    pattern, reference = LinearPattern(text), re.compile(text.encode())
    written = re.compile(pattern.regex().encode())
    for value in values:
        assert pattern.matches(value) == bool(reference.fullmatch(value)) == bool(written.fullmatch(value))


@given(PATTERNS, st.lists(VALUES | VALUES.map(bytes.swapcase), max_size=20))
def test_without_letter_case_it_matches_what_re_matches(text: str, values: list[bytes]) -> None:
    pattern, reference = LinearPattern(f"(?i){text}"), re.compile(text.encode(), re.IGNORECASE)
    written = re.compile(pattern.regex().encode())
    for value in values:
        assert pattern.matches(value) == bool(reference.fullmatch(value)) == bool(written.fullmatch(value))
    # Without letter case, [^a] matches neither "a" nor "A".
    assert "[^" in text or pattern.includes(LinearPattern(text))


@given(PATTERNS, PATTERNS, st.lists(VALUES, max_size=20))
def test_overlap_and_inclusion_agree_with_values(one: str, other: str, values: list[bytes]) -> None:
    left, right = LinearPattern(one), LinearPattern(other)
    for value in values:
        if left.matches(value) and right.matches(value):
            assert left.overlaps(right) and right.overlaps(left)
        if right.matches(value) and not left.matches(value):
            assert not left.includes(right)
    assert left.includes(left)
    if left.includes(right) and not right.includes(left):
        assert right.breadth < left.breadth


@pytest.mark.parametrize(
    ("one", "other", "overlap", "includes"),
    [
        ("[0-9]+", "[a-z]+", False, False),
        ("[0-9a-z]+", "[0-9]+", True, True),
        ("[0-9]+", "[0-9a-z]+", True, False),
        ("a*b", "ab*", True, False),
        ("x.*", "x[0-9]{4}", True, True),
        ("(?i)[a-z]+", "[A-Z]+", True, True),
        ("[A-Z]+", "(?i)[a-z]+", True, False),
        ("(?i)[^a-y]", "[A-Y]", False, False),
        (".*", "", True, True),
    ],
)
def test_overlap_and_inclusion(one: str, other: str, overlap: bool, includes: bool) -> None:
    left, right = LinearPattern(one), LinearPattern(other)
    assert (left.overlaps(right), left.includes(right)) == (overlap, includes)


@pytest.mark.parametrize("text", ["(a+)+b", "(a|a)*b", "(a|aa)+b", "a*a*a*a*a*b", "(.*)*b", "([a-z]+)*[0-9]"])
def test_what_takes_other_engines_exponential_time_is_done(text: str) -> None:
    pattern = LinearPattern(text)
    assert not pattern.matches(b"a" * 100_000)
    assert pattern.matches(b"a" * 50_000 + (b"b" if text.endswith("b") else b"7"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(", "'(' is not closed"),
        ("a)", "')' closes nothing"),
        ("[a", "'[' is not closed"),
        ("a**", "'*' repeats a repetition; put it in a group, such as (a+)*"),
        ("a{2}{2}", "'{' repeats a repetition; put it in a group, such as (a+)*"),
        ("*", "'*' repeats or closes nothing; write \\* for the character"),
        ("^a$", "a pattern matches the whole text; leave out '^', or write \\^"),
        ("(?=a)", "(?…) is not supported, except (?:…), and (?i) before all else"),
        ("a(?i)b", "(?…) is not supported, except (?:…), and (?i) before all else"),
        ("(?i)(?i)a", "(?…) is not supported, except (?:…), and (?i) before all else"),
        (r"\bx", r"\b is not supported; allowed are \d, \w, \D, \W and \ before a sign"),
        ("[z-a]", "a range in a class goes from a character to a later one, such as a-z"),
        ("a{3,2}", "{3,2} is no repetition of at most 128 times"),
        ("a{0}", "{0} is no repetition of at most 128 times"),
        ("a{x}", "a repetition is {2}, {2,} or {2,5}; write \\{ for a brace"),
        ("é", "found 'é'; allowed are visible characters of ASCII"),
        ("a\n", "found '\\n'; allowed are visible characters of ASCII"),
        ("((a{99}){99}){99}", "it is too large; repeat less"),
        ("(a|b)*a(a|b){20}", "it is too large: it would need too many states; repeat less"),
        ("a" * (MAX_LENGTH + 1), "it has 257 characters; allowed are 256"),
        ("(" * 120, "'(' is not closed"),
    ],
)
def test_patterns_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(LinearPatternError) as failure:
        LinearPattern(text)
    assert str(failure.value) == message


def test_nothing_and_everything() -> None:
    assert LinearPattern("").matches(b"") and not LinearPattern("").matches(b"a")
    assert LinearPattern("[^\x20-~]").matches(b"\xff")
    assert LinearPattern("(a|b|)c").matches(b"c")
    assert LinearPattern(r"\W\D").matches(b"--")
    assert LinearPattern("a.c").regex(without=b"/") == "[a][\\x21-\\x2e0-\\x7e][c]"
