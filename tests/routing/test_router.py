"""The router, against a naive reference and rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.routing.paths import LITERAL, PARAMETER, Pattern, canonical_path
from passerelle.routing.router import (
    MAX_CACHED_HOSTS,
    MAX_HOST,
    MAX_STEPS,
    RouteMatch,
    Router,
    RouteRule,
    _TrieNode,
    _worst_case,
    normal_host,
    specificity,
)

GET, PUT, POST, HEAD = b"GET", b"PUT", b"POST", b"HEAD"


def rule(pattern: str, value: object = None, *, host: bytes | None = None, methods: str | None = None) -> RouteRule:
    named = frozenset(methods.encode().split(b",")) if methods is not None else None
    return RouteRule(host, named, pattern, pattern if value is None else value)


def find(rules: list[RouteRule], path: bytes, method: bytes = GET, host: bytes = b"") -> RouteMatch:
    return Router(rules).match(host, method, path)


@pytest.mark.parametrize(
    ("path", "value", "params"),
    [
        (b"/", "/", {}),
        (b"/user", "/user", {}),
        (b"/user/42", "/user/{id}", {"id": b"42"}),
        (b"/user/me", "/user/me", {}),
        (b"/user/42/orders", "/user/{id}/orders", {"id": b"42"}),
        (b"/user/me/orders", "/user/{id}/orders", {"id": b"me"}),
        (b"/user/me/x/y", "/user/{rest*}", {"rest": b"me/x/y"}),
        (b"/user/", "/user/{rest*}", {"rest": b""}),
        (b"/user//", "/user/{rest*}", {"rest": b"/"}),
        (b"/files", "/files/{path*}", {"path": b""}),
        (b"/files/", "/files/{path*}", {"path": b""}),
        (b"/files/a//b/", "/files/{path*}", {"path": b"a//b/"}),
        (b"/q/%2F/get", "/q/{name}/get", {"name": b"%2F"}),
        (b"/q/te%252Fst/get", "/q/{name}/get", {"name": b"te%252Fst"}),
        (b"/q/a%3Fb/get", "/q/{name}/get", {"name": b"a%3Fb"}),
        (b"/q/a/b/get", "/q/{a}/{b}/get", {"a": b"a", "b": b"b"}),
        (b"/slash/", "/slash/", {}),
        (b"/x/y/z", "/x/{b}/z", {"b": b"y"}),
    ],
)
def test_paths_find_the_most_specific_rule(path: bytes, value: str, params: dict[str, bytes]) -> None:
    patterns = [
        *("/", "/user", "/user/{id}", "/user/me", "/user/{id}/orders", "/user/{rest*}", "/files/{path*}"),
        *("/q/{name}/get", "/q/{a}/{b}/get", "/slash/", "/x/{b}/z", "/{a}/y/w"),
    ]
    for order in (patterns, patterns[::-1]):
        match = find([rule(pattern) for pattern in order], path)
        assert (match.value, match.params, match.allowed) == (value, params, ())


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/use",
        b"/users",
        b"/User",
        b"/user/42/",
        b"/user//42",
        b"//user/42",
        b"/user/42/x",
        b"/slash",
        b"/p/",
        b"/p",
    ],
)
def test_what_no_rule_matches_is_404(path: bytes) -> None:
    match = find([rule("/user"), rule("/user/{id}"), rule("/slash/"), rule("/p/{a}")], path)
    assert (match.value, match.params, match.allowed) == (None, {}, ())


@pytest.mark.parametrize("path", [b"*", b"", b"user", b"a/b", b"x/user"])
def test_what_is_no_path_matches_nothing(path: bytes) -> None:
    assert find([rule("/{rest*}"), rule("/user"), rule("/{a}")], path).value is None


def test_a_parameter_is_never_empty() -> None:
    rules = [rule("/a/{x}/b"), rule("/{x}")]
    assert find(rules, b"/a//b").value is None
    assert find(rules, b"/").value is None


def test_the_search_goes_back_where_a_literal_led_astray() -> None:
    rules = [rule("/a/b/c"), rule("/a/{x}/d"), rule("/{y}/b/e"), rule("/{rest*}")]
    assert find(rules, b"/a/b/d").params == {"x": b"b"}
    assert find(rules, b"/a/b/e").params == {"y": b"a"}
    assert find(rules, b"/a/b/f").params == {"rest": b"a/b/f"}


def test_the_leftmost_difference_decides() -> None:
    rules = [rule("/{a}/lit"), rule("/lit/{b}"), rule("/lit/{c*}")]
    assert find(rules, b"/lit/lit").value == "/lit/{b}"
    assert find(rules, b"/x/lit").value == "/{a}/lit"


def test_a_deeper_rest_comes_first() -> None:
    rules = [rule("/{r*}"), rule("/a/{r*}"), rule("/a/b/{r*}")]
    assert find(rules, b"/a/b/c").value == "/a/b/{r*}"
    assert find(rules, b"/a/b").value == "/a/b/{r*}"
    assert find(rules, b"/a/x").value == "/a/{r*}"
    assert find(rules, b"/x").value == "/{r*}"


def test_methods_are_distinguished() -> None:
    rules = [
        rule("/u/{id}", "read", methods="GET"),
        rule("/u/{key}", "write", methods="PUT,DELETE"),
        rule("/s", methods="POST"),
    ]
    assert find(rules, b"/u/1", GET).params == {"id": b"1"}
    assert find(rules, b"/u/1", PUT).params == {"key": b"1"}
    assert find(rules, b"/u/1", POST).allowed == (b"DELETE", b"GET", b"HEAD", b"PUT")
    assert find(rules, b"/s", GET).allowed == (b"POST",)
    assert find(rules, b"/u/1", b"get").allowed == (b"DELETE", b"GET", b"HEAD", b"PUT")
    assert find(rules, b"/u", GET).allowed == ()


def test_get_brings_head_unless_head_has_its_own_rule() -> None:
    assert find([rule("/x", "g", methods="GET")], b"/x", HEAD).value == "g"
    assert find([rule("/x", "g", methods="GET"), rule("/x", "h", methods="HEAD")], b"/x", HEAD).value == "h"
    assert find([rule("/x", "g", methods="GET"), rule("/x", "all")], b"/x", HEAD).value == "g"
    assert find([rule("/x", "p", methods="POST")], b"/x", HEAD).allowed == (b"POST",)


def test_options_is_a_method_like_any_other() -> None:
    assert find([rule("/x", methods="GET")], b"/x", b"OPTIONS").allowed == (b"GET", b"HEAD")
    assert find([rule("/x")], b"/x", b"OPTIONS").value == "/x"


def test_a_named_method_comes_before_all_methods() -> None:
    rules = [rule("/x/{a}", "all"), rule("/x/{a}", "put", methods="PUT")]
    assert find(rules, b"/x/1", PUT).value == "put"
    assert find(rules, b"/x/1", POST).value == "all"


def test_a_rule_for_another_method_hides_nothing() -> None:
    rules = [rule("/u/me", methods="GET"), rule("/u/{id}", methods="PUT"), rule("/{rest*}", methods="POST")]
    assert find(rules, b"/u/me", PUT).value == "/u/{id}"
    assert find(rules, b"/u/me", POST).value == "/{rest*}"
    assert find(rules, b"/u/me", b"DELETE").allowed == (b"GET", b"HEAD", b"POST", b"PUT")


@pytest.mark.parametrize(
    ("host", "value"),
    [
        (b"api.example.com", "exact"),
        (b"API.Example.COM:8080", "exact"),
        (b"api.example.com.", "exact"),
        (b"api.example.com.:80", "exact"),
        (b"api.example.com:", "exact"),
        (b"x.example.com", "wild"),
        (b"x.y.example.com", "wild"),
        (b"v1.api.example.com", "wild"),
        (b"x.deep.example.com", "deep"),
        (b"a.b.deep.example.com", "deep"),
        (b"deep.example.com", "wild"),
        (b"example.com", "any"),
        (b"badexample.com", "any"),
        (b"[::1]:8080", "six"),
        (b"[::1]", "six"),
        (b"127.0.0.1:80", "any"),
        (b"", "any"),
        (b".".join([b"a"] * 4000) + b".example.com", "wild"),
    ],
)
def test_hosts(host: bytes, value: str) -> None:
    rules = [
        rule("/{r*}", "any"),
        rule("/{r*}", "wild", host=b"*.example.com"),
        rule("/{r*}", "deep", host=b"*.deep.example.com"),
        rule("/{r*}", "exact", host=b"api.example.com"),
        rule("/{r*}", "six", host=b"[::1]"),
    ]
    router = Router(rules)
    assert [router.match(host, GET, b"/x").value for _ in range(3)] == [value] * 3


def test_the_host_decides_before_the_path() -> None:
    rules = [rule("/healthz", "open"), rule("/{r*}", "site", host=b"a.com"), rule("/x", "wild", host=b"*.com")]
    assert find(rules, b"/healthz", host=b"a.com").value == "site"
    assert find(rules, b"/healthz", host=b"b.com").value == "open"


def test_what_a_host_does_not_have_is_looked_for_in_the_wider_ones() -> None:
    rules = [
        rule("/a", "exact", host=b"api.example.com", methods="GET"),
        rule("/b", "wild", host=b"*.example.com"),
        rule("/c", "wider", host=b"*.com"),
        rule("/d", "any"),
        rule("/a", "put", host=b"*.com", methods="PUT"),
    ]
    router = Router(rules)
    for path, value in ((b"/a", "exact"), (b"/b", "wild"), (b"/c", "wider"), (b"/d", "any"), (b"/e", None)):
        assert router.match(b"api.example.com", GET, path).value == value
    assert router.match(b"api.example.com", PUT, b"/a").value == "put"
    assert router.match(b"api.example.com", POST, b"/a").allowed == (b"GET", b"HEAD", b"PUT")
    assert router.match(b"x.example.com", POST, b"/a").allowed == (b"PUT",)


def test_what_clients_write_as_host_is_remembered_within_bounds() -> None:
    router = Router([rule("/", "any"), rule("/", "a", host=b"a.com")])
    for number in range(3 * MAX_CACHED_HOSTS):
        assert router.match(b"h%d.com" % number, GET, b"/").value == "any"
        assert len(router._cached_chains) <= MAX_CACHED_HOSTS
    assert router.match(b"x" * (MAX_HOST + 1), GET, b"/").value == "any"
    assert all(len(host) <= MAX_HOST for host in router._cached_chains)
    assert router.match(b"A.com:1", GET, b"/").value == "a"


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        (b"A.b:80", b"a.b"),
        (b"a.b.", b"a.b"),
        (b"[2001:DB8::1]:80", b"[2001:db8::1]"),
        (b"[2001:DB8::1]", b"[2001:db8::1]"),
        (b"a:b", b"a:b"),
        (b"", b""),
    ],
)
def test_normal_host(host: bytes, normal: bytes) -> None:
    assert normal_host(host) == normal


@pytest.mark.parametrize(
    "rules",
    [
        [rule("/a"), rule("/a")],
        [rule("/{a}"), rule("/{b}")],
        [rule("/{a*}"), rule("/{b*}")],
        [rule("/a", methods="GET,PUT"), rule("/a", methods="PUT")],
        [rule("/a", host=b"x"), rule("/a", host=b"x")],
    ],
)
def test_rules_that_match_the_same_requests_are_refused(rules: list[RouteRule]) -> None:
    with pytest.raises(ValueError, match="two rules for"):
        Router(rules)


def ambiguous(levels: int) -> list[RouteRule]:
    """A literal and a parameter at every level, all with children: 2^levels branches for the path /a/a/a…"""
    return [
        rule("".join(f"/{{p{level}}}" if wild else "/a" for level, wild in enumerate(way)))
        for way in product([False, True], repeat=levels)
    ]


def test_a_table_whose_lookups_could_take_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"could take 10\d\d steps"):
        Router(ambiguous(9))
    assert MAX_STEPS == 1000


def test_the_worst_case_is_what_was_computed() -> None:
    router = Router(ambiguous(7))
    root = router._open[0].root
    asked = count_steps(root)
    assert router.match(b"", GET, b"/a/a/a/a/a/a/b/c").value is None
    # A refusal searches twice: for a match, and for the methods of a 405.
    assert 2**7 <= asked() <= 2 * _worst_case(root)


def test_long_paths_cost_no_more_than_the_deepest_pattern() -> None:
    router = Router([rule("/a/{b}"), rule("/c/{rest*}")])
    path = b"/c" + b"/x" * 20_000
    assert router.match(b"", GET, path).params == {"rest": path[3:]}
    assert router.match(b"", GET, b"/a" * 20_000).value is None


def test_a_match_of_a_literal_path_is_made_once() -> None:
    router = Router([rule("/health")])
    assert router.match(b"", GET, b"/health") is router.match(b"x", GET, b"/health")


def test_no_rules_match_nothing() -> None:
    assert find([], b"/x").value is None
    assert repr(find([rule("/x", "v")], b"/x")) == "Match('v', {}, ())"


# ---- a naive reference: every rule is tried, and the one with the lowest key wins; the key is written independently


def naive_params(pattern: Pattern, path: bytes) -> dict[str, bytes] | None:
    segments = path.split(b"/")[1:]
    params: dict[str, bytes] = {}
    for index, segment in enumerate(pattern.segments):
        if segment.kind == LITERAL:
            if index >= len(segments) or segments[index] != segment.text.encode():
                return None
        elif segment.kind == PARAMETER:
            if index >= len(segments) or not segments[index]:
                return None
            params[segment.text] = segments[index]
        else:
            params[segment.text] = b"/".join(segments[index:])
            return params
    return params if len(segments) == len(pattern.segments) else None


def naive_host(wanted: bytes | None, host: bytes) -> bool:
    if wanted is None:
        return True
    return host.endswith(wanted[1:]) and host != wanted[1:] if wanted.startswith(b"*.") else host == wanted


def naive_key(candidate: RouteRule, method: bytes) -> tuple[object, ...]:
    host = candidate.host
    place = (2, 0) if host is None else (1, -len(host)) if host.startswith(b"*") else (0, 0)
    kinds = tuple(segment.kind for segment in Pattern.parse(candidate.pattern).segments)
    named = 2 if candidate.methods is None else 0 if method in candidate.methods else 1
    return (*place, kinds, named)


def naive(
    rules: list[RouteRule], host: bytes, method: bytes, path: bytes
) -> tuple[object, dict[str, bytes], set[bytes]]:
    fitting = [
        (candidate, params)
        for candidate in rules
        if naive_host(candidate.host, host)
        and (params := naive_params(Pattern.parse(candidate.pattern), path)) is not None
    ]
    taken = [
        (candidate, params)
        for candidate, params in fitting
        if candidate.methods is None or method in candidate.methods or (method == HEAD and GET in candidate.methods)
    ]
    if taken:
        winner, params = min(taken, key=lambda pair: naive_key(pair[0], method))
        return winner.value, params, set()
    allowed = {name for candidate, _ in fitting for name in candidate.methods or ()}
    return None, {}, allowed | ({HEAD} if GET in allowed else set())


segment_texts = st.sampled_from(["a", "b", "ab", "{p}", "{q}", ""])
patterns = st.tuples(st.lists(segment_texts, min_size=1, max_size=4), st.booleans()).map(
    lambda drawn: (
        "".join(
            f"/{{{part[1]}{index}}}" if part.startswith("{") else f"/{part}"
            for index, part in enumerate(drawn[0])
            if part or (index == len(drawn[0]) - 1 and not drawn[1])  # only the last segment may be empty
        )
        + ("/{rest*}" if drawn[1] else "")
    )
)
hosts = st.sampled_from([None, None, None, b"a.com", b"x.a.com", b"*.a.com", b"*.com", b"*.x.a.com"])
methods = st.sampled_from([None, None, "GET", "PUT", "GET,PUT", "HEAD", "POST"])


@st.composite
def tables(draw: st.DrawFn) -> list[RouteRule]:
    rules: list[RouteRule] = []
    seen: set[tuple[object, ...]] = set()
    for number, (host, named, pattern) in enumerate(draw(st.lists(st.tuples(hosts, methods, patterns), max_size=14))):
        shape = Pattern.parse(pattern).shape
        keys = {(host, shape, method) for method in (named.split(",") if named else [None])}
        if not keys & seen:
            seen |= keys
            rules.append(rule(pattern, number, host=host, methods=named))
    return rules


requests = st.tuples(
    st.sampled_from([b"", b"a.com", b"x.a.com", b"y.a.com", b"z.x.a.com", b"b.com", b"org"]),
    st.sampled_from([GET, HEAD, PUT, POST]),
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"c", b"", b"%2F"]), min_size=1, max_size=6).map(
        lambda parts: b"/" + b"/".join(parts)
    ),
)


@given(tables(), st.lists(requests, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_router_agrees_with_the_naive_reference(
    rules: list[RouteRule], asked: list[tuple[bytes, ...]], rng: object
) -> None:
    shuffled = list(rules)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    router, other = Router(rules), Router(shuffled)
    for host, method, path in asked:
        value, params, allowed = naive(rules, host, method, path)
        for match in (router.match(host, method, path), other.match(host.upper() + b".:80", method, path)):
            assert match.value == value
            assert match.params == params
            assert set(match.allowed) == allowed
            assert list(match.allowed) == sorted(allowed)


@given(tables(), st.lists(requests, min_size=1, max_size=30))
def test_a_usual_path_is_canonical_and_matches_as_any_other(
    rules: list[RouteRule], asked: list[tuple[bytes, ...]]
) -> None:
    router = Router(rules)
    for host, method, path in asked:
        usual = router.match_usual(host, method, path)
        if usual is not None:
            match = router.match(host, method, path)
            assert canonical_path(path) == path  # without encoded slashes, which only some routes keep
            assert (usual.value, usual.params, usual.allowed) == (match.value, match.params, match.allowed)
            assert usual.value is not None


@pytest.mark.parametrize(
    ("path", "value", "params"),
    [
        (b"/", "/", {}),
        (b"/user/42", "/user/{id}", {"id": b"42"}),
        (b"/user/me", "/user/me", {}),
        (b"/page/1/a", "/page/{a}/{b}", {"a": b"1", "b": b"a"}),
        (b"/abc", "/{any}", {"any": b"abc"}),
    ],
)
def test_usual_paths_match_without_a_search(path: bytes, value: str, params: dict[str, bytes]) -> None:
    router = Router([rule(pattern) for pattern in ("/", "/user/{id}", "/user/me", "/page/{a}/{b}", "/{any}")])
    match = router.match_usual(b"", GET, path)
    assert match is not None
    assert (match.value, match.params) == (value, params)


@pytest.mark.parametrize(
    "path",
    [
        *(b"abc", b"a/b", b"*", b"", b"/user/", b"/user/a.b", b"/user/..", b"/user/%41", b"/user/a%2fb", b"//42"),
        *(b"/user//42", b"/page/a/../b", b"/page/..;/b", b"/page/./b", b"/page//b", b"/files/x", b"/split/new/1"),
        *(b"/user/\xe9", b"/user/\xb2", b"/split/1/all", b"/other/42", b"/e%2Ff", b"/e%2Ff/1", b"/e%2Ff/1/2"),
    ],
)
def test_other_paths_are_left_to_the_search(path: bytes) -> None:
    patterns = ["/user/{id}", "/{a}/{b}/c", "/page/{a}/{b}", "/files/{id}", "/files/x/{rest*}"]
    patterns += ["/e%2Ff", "/e%2Ff/{a}", "/e%2Ff/{a}/{b}", "/split/{a}/{b}", "/split/new/{b}/c", "/split/{a}/all"]
    assert Router([rule(pattern) for pattern in patterns]).match_usual(b"", GET, path) is None


@given(tables(), st.lists(requests, min_size=1, max_size=20))
def test_the_printed_order_is_the_order_of_precedence(rules: list[RouteRule], asked: list[tuple[bytes, ...]]) -> None:
    router = Router(rules)
    ranked = sorted(rules, key=specificity)
    for host, method, path in asked:
        match = router.match(host, method, path)
        if match.value is None:
            continue
        candidates = [
            candidate
            for candidate in ranked
            if naive_host(candidate.host, host)
            and naive_params(Pattern.parse(candidate.pattern), path) is not None
            and (candidate.methods is None or method in candidate.methods)
        ]
        if method != HEAD:
            assert candidates[0].value == match.value


def lookups(count: int) -> Router:
    others = [rule(f"/service{number}/{{id}}/items/{{item}}") for number in range(count - 3)]
    return Router([*others, rule("/user/{user_id}"), rule("/health"), rule("/files/{rest*}")])


def count_steps(root: _TrieNode) -> Callable[[], int]:
    """Count the nodes of the trie below ``root`` that are searched for a literal from now on."""
    steps = 0

    class Counting(dict[bytes, _TrieNode]):
        def get(self, key: bytes, default: object = None) -> object:  # type: ignore[override]
            nonlocal steps
            steps += 1
            return super().get(key, default)

    def instrument(node: _TrieNode) -> None:
        node.literals = Counting(node.literals)
        for child in (*node.literals.values(), *([node.param] if node.param is not None else [])):
            instrument(child)

    instrument(root)
    return lambda: steps


def test_the_steps_of_a_lookup_do_not_grow_with_the_table() -> None:
    """The steps are counted, not timed; `benchmarks/` measures time."""
    counted = []
    for count in (10, 10_000):
        router = lookups(count)
        steps = count_steps(router._open[0].root)
        for path in (b"/user/42", b"/service3/1/items/2", b"/files/a/b/c"):
            assert router.match(b"", GET, path).value is not None
        counted.append(steps())
    assert counted == [2 + 4 + 2] * 2
