"""The route, its guards and the upstream see the same path (RFC 3986 §2.2, §5.2.4, §6.2.2; RFC 9110 §7.7)."""

from __future__ import annotations

import pytest

from tests.support.expect import problem
from tests.support.gateways import Rig, Running
from tests.support.upstream import Upstream, answering, ok


def two_routes(rig: Rig, **options: str) -> tuple[Running, Upstream, Upstream]:
    one, two = rig.upstream(answering(ok(b"one"))), rig.upstream(answering(ok(b"two")))
    gateway = rig.gateway(
        {"one": {"targets": [one.url]}, "two": {"targets": [two.url]}},
        [{"path": "/q/{name}/get", "service": "one", **options}, {"path": "/q/{a}/{b}/get", "service": "two"}],
    )
    return gateway, one, two


@pytest.mark.parametrize(
    "target",
    [
        "/q/%2F/get",
        "/q/te%2Fst/get",
        "/q/te%2fst/get",
        "/q/te%252Fst/get",
        "/q/a%3Fb/get",
        "/q/a%3fb/get",
        "/q/a%23b/get",
        "/q/a%25b/get",
    ],
)
def test_an_encoded_delimiter_is_no_delimiter(rig: Rig, target: str) -> None:
    gateway, one, two = two_routes(rig, encoded_slashes="keep")
    response = rig.connect(gateway).request("GET", target)
    assert not two.heads, "an encoded slash became a separator"
    if response.status == 200:
        assert response.body == b"one"
        assert [r.target.decode().upper() for r in one.requests] == [target.upper()]
    else:
        problem(response, 400)
        assert not one.heads


@pytest.mark.parametrize("target", ["/q/%2F/get", "/q/te%2fst/get", "/q/x/y%2fz/get", "/q%2Fx/get", "/nowhere%2F"])
def test_an_encoded_slash_is_refused_where_the_route_does_not_keep_it(rig: Rig, target: str) -> None:
    for options in ({}, {"encoded_slashes": "keep"}):
        gateway, one, two = two_routes(rig, **options)
        response = rig.connect(gateway).request("GET", target)
        if options and target.count("/") == 3:
            assert response.body == b"one"  # the first route keeps it
            continue
        refused = problem(response, 400)
        assert refused["detail"] == "an encoded slash (%2F) is not allowed in this path"
        assert not one.heads
        assert not two.heads


def test_an_encoded_slash_is_part_of_the_cache_key_of_a_route_that_keeps_it(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok(b"a", b"Cache-Control: max-age=60")))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [{"path": "/{rest*}", "service": "u", "encoded_slashes": "keep", "cache": {}}],
    )
    client = rig.connect(gateway)
    for target in ("/a/b", "/a%2Fb", "/a%2fb", "/a//b"):
        assert client.request("GET", target).status == 200
    assert [request.target for request in upstream.requests] == [b"/a/b", b"/a%2Fb"]
    settings = {"u": {"targets": [upstream.url]}}
    gateway.reload(settings, [{"path": "/{rest*}", "service": "u", "cache": {}}])
    problem(client.request("GET", "/a%2Fb"), 400)
    assert client.request("GET", "/a/b").status == 200


def test_a_preflight_uses_the_path_of_its_route(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/kept/{id}", "service": "u", "encoded_slashes": "keep", "cors": {"origins": "*"}},
            {"path": "/{rest*}", "service": "u", "cors": {"origins": "*"}},
        ],
    )
    fields = (("Origin", "https://a.example"), ("Access-Control-Request-Method", "GET"))
    client = rig.connect(gateway)
    assert client.request("OPTIONS", "/kept/a%2Fb", *fields).status == 204
    assert client.request("OPTIONS", "//kept//a", *fields).status == 204
    problem(client.request("OPTIONS", "/other/a%2Fb", *fields), 400)


@pytest.mark.parametrize("target", ["/q/a%00b/get", "/q/%00/get"])
def test_an_encoded_nul_is_refused_or_kept(rig: Rig, target: str) -> None:
    gateway, one, _ = two_routes(rig)
    response = rig.connect(gateway).request("GET", target)
    if response.status == 200:
        assert [r.target.decode() for r in one.requests] == [target]
    else:
        problem(response, 400)


def test_a_plain_path_finds_its_route(rig: Rig) -> None:
    gateway, *_ = two_routes(rig)
    client = rig.connect(gateway)
    assert client.request("GET", "/q/x/get").body == b"one"
    assert client.request("GET", "/q/x/y/get").body == b"two"


OPEN_TO_CLOSED = [
    "/open/../closed/s",
    "/open/%2e%2e/closed/s",
    "/open/.%2E/closed/s",
    "/open/%2E./closed/s",
    "/open/x/..%2f..%2fclosed/s",
    "/open/x/%2e%2e%2f%2e%2e%2fclosed/s",
    "/....//closed",
    "//closed/s",
    "/open/..;/closed/s",
    "/open/..;a=b/closed/s",
    "/open/..%3b/closed/s",
    "/open/..%00/closed/s",
    "/open/..%5cclosed/s",
    "/open/%252e%252e/closed/s",
    "/open/..%252fclosed/s",
    "/./closed/s",
    "/%2e/closed/s",
    "/open/./../closed/s",
    "/open//../closed/s",
    "/open/%c0%ae%c0%ae/closed/s",
    "/open/..",
    "/open/../",
    "/open/..?x",
    "/%63losed/s",
    "/clos%65d/s",
    "/%63%6c%6f%73%65%64/s",
    "/open/x/../../closed/s",
    "/../closed/s",
    "/open/%2e%2e%2fclosed/s",
    "http://gw/open/../closed/s",
    "/CLOSED/s",
    "/closed;x/s",
]


def resolves_to_closed(target: bytes) -> bool:
    """Whether the most lenient upstream resolves the path to ``/closed``.

    Such an upstream decodes twice, drops parameters, converts backslashes, resolves dot segments and merges slashes.
    """
    path = target.split(b"?")[0]
    for _ in range(2):
        out, i = bytearray(), 0
        while i < len(path):
            if path[i : i + 1] == b"%" and len(path[i + 1 : i + 3]) == 2:
                try:
                    out.append(int(path[i + 1 : i + 3], 16))
                    i += 3
                    continue
                except ValueError:
                    pass
            out.append(path[i])
            i += 1
        path = bytes(out)
    stack: list[bytes] = []
    for segment in path.replace(b"\\", b"/").split(b"/"):
        bare = segment.split(b";")[0].split(b"\0")[0]
        if bare == b"..":
            del stack[-1:]
        elif bare not in (b"", b"."):
            stack.append(bare)
    return stack[:1] == [b"closed"]


@pytest.mark.parametrize("target", OPEN_TO_CLOSED)
def test_what_the_route_decides_is_what_the_upstream_gets(rig: Rig, target: str) -> None:
    """A path forwarded by the open route must not resolve to ``/closed``, for an upstream that resolves once.

    Both routes have the same upstream. A path meant for ``/closed`` is forwarded by the closed route or refused.
    """
    opened, closed = rig.upstream(answering(ok(b"open"))), rig.upstream(answering(ok(b"closed")))
    gateway = rig.gateway(
        {"open": {"targets": [opened.url]}, "closed": {"targets": [closed.url]}},
        [{"path": "/open/{rest*}", "service": "open"}, {"path": "/closed/{rest*}", "service": "closed"}],
    )
    client = rig.connect(gateway)
    client.send(f"GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n".encode())
    response = client.read_response()
    if response.status != 200:
        problem(response, 400, 404)
    for request in opened.requests:
        path = request.target.split(b"?")[0]
        segments = [s.split(b";")[0] for s in path.lower().replace(b"%2e", b".").replace(b"%2f", b"/").split(b"/")]
        assert b".." not in segments, f"a dot segment went upstream by the open route: {path!r}"
        if b"%25" not in path:  # only an upstream that decodes twice resolves an escaped escape
            assert not resolves_to_closed(request.target), f"{path!r} reaches /closed by the open route"


@pytest.mark.parametrize("raw", [b"/open\\..\\closed", b"/open/..\\closed/s", b"\\closed\\s"])
def test_a_backslash_is_refused(rig: Rig, raw: bytes) -> None:
    upstream = rig.upstream(answering(ok()))
    client = rig.connect(rig.forward(upstream))
    client.send(b"GET " + raw + b" HTTP/1.1\r\nHost: gw\r\n\r\n")
    problem(client.read_response(), 400)
    assert not upstream.heads


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/a//b", "/a/b"),
        ("/a/", "/a/"),
        ("/a", "/a"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a///", "/a/"),
        ("/a/b//?c=//", "/a/b/?c=//"),
        ("http://gw//a", "/a"),
    ],
)
def test_empty_segments_are_removed_but_for_a_final_slash(rig: Rig, target: str, forwarded: str) -> None:
    upstream = rig.upstream(answering(ok()))
    assert rig.connect(rig.forward(upstream)).request("GET", target).status == 200
    assert upstream.requests[0].target == forwarded.encode()


GUARDED = [
    "//admin",
    "//admin/secret",
    "/admin//secret",
    "/admin%2fsecret",
    "/%2Fadmin",
    "/%2fadmin%2fsecret",
    "/x/..//admin",
    "/x//../admin",
    "/./admin",
    "/%2e/admin",
    "/admin\\secret",
    "/admin%5Csecret",
    "/admin/./secret",
    "/admin/x/../secret",
    "/admin%2F",
    "/internal%2Fverify",
    "//internal//verify",
]


@pytest.mark.parametrize("target", GUARDED)
def test_no_spelling_of_a_guarded_path_takes_the_open_route(rig: Rig, target: str) -> None:
    upstream = rig.upstream(answering(ok()))
    service = {"u": {"targets": [upstream.url]}}
    gateway = rig.gateway(
        service,
        [
            {"path": "/{rest*}", "service": "u"},
            {"path": "/admin/{rest*}", "service": "u", "clients": {"deny": ["127.0.0.0/8"]}},
            {"path": "/internal/verify", "service": "u", "clients": {"deny": ["127.0.0.0/8"]}},
        ],
    )
    client = rig.connect(gateway)
    client.send(f"GET {target} HTTP/1.1\r\nHost: gw\r\n\r\n".encode())
    problem(client.read_response(), 400, 403)
    assert not upstream.heads


@pytest.mark.parametrize("value", ["1%2fdelete", "1%2F", "%2Fdelete", "1%5cdelete", "1%2f..%2fdelete"])
def test_a_parameter_of_a_rewrite_or_a_part_has_no_slash(rig: Rig, value: str) -> None:
    upstream = rig.upstream(answering(ok(b"{}", b"Content-Type: application/json")))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/user/{id}", "service": "u", "rewrite": "/internal/{id}"},
            {"path": "/both/{id}", "compose": {"x": {"service": "u", "path": "/internal/{id}"}}},
        ],
    )
    client = rig.connect(gateway)
    for path in ("/user/", "/both/"):
        problem(client.request("GET", path + value), 400)
    assert not upstream.heads


@pytest.mark.parametrize(
    "value", ["..%2Fadmin", "x%3Fy=1", "x%23y", "a%2Fb", "%2E%2E", "a%252Fb", "a%00b", "a%0D%0AX:%20y", "a;b", "a=b&c"]
)
def test_a_parameter_put_into_a_template_cannot_add_segments_or_a_query(rig: Rig, value: str) -> None:
    upstream = rig.upstream(answering(ok(b"{}", b"Content-Type: application/json")))
    gateway = rig.gateway(
        {"u": {"targets": [upstream.url]}},
        [
            {"path": "/c/{id}", "compose": {"x": {"service": "u", "path": "/users/{id}/profile"}}},
            {"path": "/r/{id}", "service": "u", "rewrite": "/users/{id}/profile"},
        ],
    )
    client = rig.connect(gateway)
    for target in (f"/c/{value}", f"/r/{value}"):
        response = client.request("GET", target)
        if response.status != 200:
            problem(response, 400, 404)
    for request in upstream.requests:
        path = request.target
        assert path.startswith(b"/users/") and path.endswith(b"/profile")
        assert path.count(b"/") == 3 and b"?" not in path and b"#" not in path
        assert path.split(b"/")[2].lower().replace(b"%2e", b".") != b".."
        assert path.split(b"/")[2].upper() == value.encode().upper()
