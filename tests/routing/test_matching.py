"""Constrained parameters, conditions and priorities: the order of routes, and what conditions see of a request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.routing.conditions import (
    BeginsWith,
    Condition,
    InNetworks,
    Is,
    Matches,
    MediaTypes,
    Present,
    RoutedRequest,
    canonical_text,
    implies,
    never_together,
    parameter_finder,
)
from passerelle.routing.linear_pattern import LinearPattern
from passerelle.routing.paths import Pattern, PatternError
from passerelle.routing.router import CONDITIONAL, RouteMatch, Router, RouteRule, specificity

GET = b"GET"


def rule(pattern: str, value: str = "", *conditions: Condition, methods: str = "", priority: int = 0) -> RouteRule:
    named = frozenset(methods.encode().split(b",")) if methods else None
    return RouteRule(None, named, pattern, value or pattern, False, conditions, priority)


def find(rules: list[RouteRule], path: bytes, method: bytes = GET) -> RouteMatch:
    return Router(rules).match(b"", method, path)


@pytest.mark.parametrize(
    ("path", "value", "params"),
    [
        (b"/u/me", "/u/me", {}),
        (b"/u/42", "/u/{id:int}", {"id": b"42"}),
        (b"/u/42a", "/u/{hex:[0-9a-f]+}", {"hex": b"42a"}),
        (b"/u/xyz", "/u/{name}", {"name": b"xyz"}),
        (b"/u/42/x", "/u/{name}/x", {"name": b"42"}),  # the route for numbers leads nowhere
        (b"/u/42/y", "/u/{id:int}/y", {"id": b"42"}),
        (b"/u/x/y", "/{rest*}", {"rest": b"u/x/y"}),
        (b"/u/", "/{rest*}", {"rest": b"u/"}),
        (b"/k/a", "/k/{kind:a|b}", {"kind": b"a"}),
        (b"/k/c", "/{rest*}", {"rest": b"k/c"}),
        (b"/o/1/2", "/o/{a:int}/{b:int}", {"a": b"1", "b": b"2"}),
        (b"/o/1/b", "/{rest*}", {"rest": b"o/1/b"}),
        (b"/id/0f8fad5b-d9cb-469f-a165-70867728950e", "/id/{id:uuid}", {"id": b"0f8fad5b-d9cb-469f-a165-70867728950e"}),
        (b"/id/0f8fad5b", "/{rest*}", {"rest": b"id/0f8fad5b"}),
    ],
)
def test_constrained_parameters(path: bytes, value: str, params: dict[str, bytes]) -> None:
    patterns = ["/u/me", "/u/{name}", "/u/{id:int}", "/u/{hex:[0-9a-f]+}", "/u/{name}/x", "/u/{id:int}/y", "/{rest*}"]
    patterns += ["/k/{kind:a|b}", "/o/{a:int}/{b:int}", "/id/{id:uuid}"]
    for ordered in (patterns, patterns[::-1]):
        rules = [rule(pattern) for pattern in ordered]
        match = find(rules, path)
        assert (match.value, match.params) == (value, params)
        usual = Router(rules).match_usual(b"", GET, path)
        assert usual is None or (usual.value, usual.params) == (value, params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/{id:integer}", "found '{id:integer}'; allowed after the colon is int, uuid, a pattern such as [a-z-]+, "),
        ("/{id:}", "found '{id:}'; allowed after the colon is int, uuid, a pattern"),
        ("/{rest:path}", "found '{rest:path}'; the rest of a path is written {rest*}"),
        ("/{id:[0-9]*}", "found '{id:[0-9]*}'; its pattern matches the empty text as well, but no segment is empty"),
        ("/{id:(a+}", "found '{id:(a+}'; its pattern cannot be used: '(' is not closed"),
        ("/{a:int}-{b:int}", "found '{a:int}-{b:int}'; a parameter must be a whole segment, such as /{a}"),
        ("/{a:[?]}", "found '{a:[?]}'; its pattern matches no segment of a path"),
        ("/{a:b c}", "found '{a:b c}'; a segment of a path has no blanks"),
        ("/v{a:int}", "found 'v{a:int}'; a parameter must be a whole segment"),
    ],
)
def test_constraints_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(PatternError) as failure:
        Pattern.parse(text)
    assert str(failure.value).startswith(message)


def test_constraints_of_which_neither_is_narrower_are_refused() -> None:
    with pytest.raises(ValueError, match="a segment can match both"):
        Router([rule("/{a:a[a-z]}"), rule("/{b:[a-z]a}")])
    with pytest.raises(ValueError, match="a segment can match both"):
        Router([rule("/{a:a|b}"), rule("/{b:[ab]}")])
    assert find([rule("/{a:int}"), rule("/{b:[0-9]+}/x")], b"/7/x").value == "/{b:[0-9]+}/x"  # one and the same


# ---- what conditions see


def request(
    fields: Sequence[tuple[bytes, bytes]] = (), query: bytes = b"", address: bytes | None = None, path: bytes = b"/"
) -> RoutedRequest:
    return RoutedRequest(lambda name: [value for key, value in fields if key == name], query, lambda: address, path)


def test_ten_thousand_cookies_and_parameters() -> None:
    many = b"; ".join(b"c%d=%d" % (number, number) for number in range(10_000))
    found = request([(b"cookie", many), (b"cookie", b"last=1; c5=x")], b"&".join([b"a=1"] * 10_000) + b"&b=2")
    assert found.value("cookie", b"c9999") == b"9999"
    assert found.value("cookie", b"c5") == b"5"
    assert found.value("cookie", b"last") == b"1"
    assert found.value("cookie", b"c") is None
    assert found.value("query", b"b") == b"2"
    assert found.value("query", b"c") is None
    assert request([(b"cookie", b";" * 100_000 + b" " * 100_000 + b"x=1")]).value("cookie", b"x") == b"1"


@pytest.mark.parametrize(
    ("query", "value"),
    [
        (b"v=1", b"1"),
        (b"v", b""),
        (b"v=", b""),
        (b"v=a=b", b"a=b"),
        (b"&&v=1", b"1"),
        (b"%76=%31", b"1"),
        (b"v=+%2B", b" +"),
        (b"v=%zz", b"%zz"),
        (b"v=%ff", b"\xff"),
        (b"V=1", None),
        (b"v[]=1", None),
        (b"v;v=1", None),
        (b"+v=1", None),
        (b"", None),
    ],
)
def test_parameters_of_a_query(query: bytes, value: bytes | None) -> None:
    assert parameter_finder(b"v")(query) == value


@given(st.binary(min_size=1, max_size=6), st.binary(max_size=6), st.booleans())
def test_a_parameter_is_found_however_it_is_encoded(name: bytes, value: bytes, plus: bool) -> None:
    encoded = [quote_from_bytes(text, "" if plus else "/:") for text in (name, value)]
    spelled = [text.replace("%20", "+") if plus else text.lower() if name.islower() else text for text in encoded]
    query = f"a=b&{spelled[0]}={encoded[1]}&{encoded[0]}=no".encode()
    assert parameter_finder(name)(query) == (b"b" if name == b"a" else value)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        (b"10.1.2.3", True),
        (b"::ffff:10.1.2.3", True),
        (b"2001:db8::1", True),
        (b"11.1.2.3", False),
        (b"unix", False),
        (b"10.1.2.3:80", False),
        (b"\xff", False),
        (None, False),
    ],
)
def test_addresses(address: bytes | None, inside: bool) -> None:
    test = InNetworks(frozenset((ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))))
    assert Condition("client", b"", test).holds(request(address=address)) is inside
    assert Condition("client", b"", test, negated=True).holds(request(address=address)) is not inside


TESTS: list[Is | BeginsWith | Matches | Present | InNetworks | MediaTypes] = [
    *(Is(frozenset((b"a",))), Is(frozenset((b"a", b"bb"))), Is(frozenset((b"c",))), BeginsWith((b"a",))),
    *(BeginsWith((b"ab", b"c")), Matches(LinearPattern("[ab]+")), Matches(LinearPattern("c?")), Present()),
    *(MediaTypes(frozenset((b"text/*",))), MediaTypes(frozenset((b"text/a",))), MediaTypes(frozenset((b"a/b",)))),
    InNetworks(frozenset((ip_network("10.0.0.0/8"),))),
    InNetworks(frozenset((ip_network("10.1.0.0/16"), ip_network("::/0")))),
]
VALUES = [None, b"", b"a", b"bb", b"c", b"ab", b"abc", b"text/a", b"text/b", b"a/b", b"10.1.0.1", b"10.2.0.1", b"::1"]
CONDITIONS = [Condition("header", b"x", test, negated) for test in TESTS for negated in (False, True)]


def test_what_is_certain_about_two_conditions_is_true() -> None:
    certain = [0, 0]
    for one in CONDITIONS:
        for other in CONDITIONS:
            for value in VALUES:
                found = request([(b"x", value)] if value is not None else [])
                held, both = one.holds(found), one.holds(found) and other.holds(found)
                assert not (both and never_together(one, other)), (one, other, value)
                assert not (held and implies(one, other) and not other.holds(found)), (one, other, value)
            certain[0] += never_together(one, other)
            certain[1] += implies(one, other)
    assert certain[0] > 60 and certain[1] > 60
    assert not never_together(CONDITIONS[0], Condition("cookie", b"x", TESTS[2]))


def test_texts_of_conditions() -> None:
    names = [str(condition) for condition in CONDITIONS]
    assert names[:2] == ["header x is 'a'", "header x is not 'a'"]
    assert "header x does not begin with 'a'" in names and "header x does not match '[ab]+'" in names
    assert {"header x is present", "header x is absent"} < set(names)
    secret = Condition("header", b"x-api-key", TESTS[0])
    assert str(secret) == "header x-api-key has a value that is not shown, as it may be a secret"
    assert canonical_text([secret]) != canonical_text([Condition("header", b"x-api-key", TESTS[2])])
    assert len({canonical_text([condition]) for condition in CONDITIONS}) == len(CONDITIONS)
    assert CONDITIONS[0].why_not(request([(b"x", b"b" * 100)])) == f"header x is {'b' * 77 + '...'!r} (needed: is 'a')"


# ---- the order

FIELDS = [Condition("header", name, Is(frozenset((value,)))) for name in (b"a", b"b") for value in (b"1", b"2")]
_METHODS = st.sampled_from(["", "GET", "GET,PUT", "HEAD", "PUT"])
_PATTERNS = st.sampled_from(
    ["/", "/x", "/{p}", "/{p:int}", "/{p:[0-9a-f]+}", "/{p}/y", "/{p:int}/{q}", "/{r*}", "/x/{r*}"]
)
RULES = st.lists(
    st.builds(
        lambda pattern, conditions, methods, priority: (pattern, conditions, methods, priority),
        _PATTERNS,
        st.lists(st.sampled_from(FIELDS), max_size=2, unique_by=lambda found: found.name).map(tuple),
        _METHODS,
        st.sampled_from([0, 0, 1, -1]),
    ),
    max_size=10,
    unique_by=lambda found: (found[0], frozenset(found[1]), found[2]),
)
REQUESTS = st.tuples(
    st.sampled_from([b"/", b"/x", b"/7", b"/f", b"/xx", b"/x/y", b"/7/y", b"/f/y", b"/7/z", b"/x/y/z", b"//"]),
    st.sampled_from([b"GET", b"HEAD", b"PUT", b"POST"]),
    st.sampled_from([b"", b"1", b"2"]),
    st.sampled_from([b"", b"1", b"2"]),
)


def _holds(asked: RoutedRequest, condition: Condition) -> bool:
    return condition.holds(asked)


def _accepts(found: RouteRule, method: bytes, path: bytes, asked: RoutedRequest) -> bool:
    only = Router([RouteRule(None, None, found.pattern, found)])
    named = found.methods is None or method in found.methods
    return only.match(b"", GET, path).value is not None and named and all(c.holds(asked) for c in found.conditions)


@given(RULES, st.lists(REQUESTS, min_size=1, max_size=10))
def test_the_printed_order_is_the_order_of_precedence(
    described: list[tuple[str, tuple[Condition, ...], str, int]], requests: list[tuple[bytes, ...]]
) -> None:
    rules: list[RouteRule] = []
    for pattern, conditions, methods, priority in described:
        candidate = rule(pattern, f"{pattern} {methods} {canonical_text(conditions)}", *conditions, methods=methods)
        candidate = RouteRule(None, candidate.methods, pattern, candidate.value, False, conditions, priority)
        try:
            Router([*rules, candidate])
        except ValueError:
            continue
        rules.append(candidate)
    router = Router(rules)
    for path, method, a, b in requests:
        asked = request([(name, value) for name, value in ((b"a", a), (b"b", b)) if value])
        matching = [each for each in sorted(rules, key=specificity) if _accepts(each, method, path, asked)]
        found = router.match(b"", method, path)
        if found.value is None and router.conditional:
            found = router.choose(b"", method, path, partial(_holds, asked))
        if method != b"HEAD":  # a route with GET serves HEAD too, but is less specific than one with HEAD
            assert found.value == (matching[0].value if matching else None)
        else:
            assert (found.value is not None) >= bool(matching)
        if found.value is None:
            others = [m for m in (b"GET", b"PUT", b"HEAD") if any(_accepts(r, m, path, asked) for r in rules)]
            assert set(others) <= set(found.allowed)
            assert router.all_matches(b"", method, path)


def test_conditions_are_judged_only_where_they_could_decide() -> None:
    router = Router(
        [rule("/a", "plain"), rule("/b", "b", FIELDS[0]), rule("/b", "rest"), rule("/c/{x}", "c", FIELDS[0])]
    )
    assert router.match(b"", GET, b"/a").value == "plain"
    assert router.match(b"", GET, b"/b") is CONDITIONAL
    assert router.match_usual(b"", GET, b"/b") is CONDITIONAL
    assert router.match(b"", GET, b"/c/1").value is None
    usual = router.match_usual(b"", GET, b"/c/1")
    assert usual is not None and usual.value is None
    assert [match.value for match in router.all_matches(b"", GET, b"/b")] == ["b", "rest"]
    assert [match.value for match in router.all_matches(b"", GET, b"/a")] == ["plain"]
    assert [match.value for match in router.all_matches(b"", GET, b"/z")] == [None]
    first = [rule("/b", "b", FIELDS[0]), rule("/b", "rest", priority=1)]
    assert Router(first).match(b"", GET, b"/b").value == "rest"
