"""A 304 freshens the fields and the lifetime of a stored response, never body, coding or length (RFC 9111 §4.3)."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import pytest

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response

BODY = gzip.compress(b'{"a": 1}' * 50, mtime=0)
MODIFIED = b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"
# Stale from the start: 100 seconds old, with a lifetime of 1 second.
STALE = (b"Cache-Control: max-age=1", b"Age: 100", b"Content-Encoding: gzip", b"X-Old: 1")
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\n"


class Origin:
    """Respond to the first GET with the fields to store, then with ``then`` in turn, repeating the last one."""

    def __init__(self, rig: Rig, first: Sequence[bytes], *then: bytes, body: bytes = BODY) -> None:
        self._answers = [ok(body, *first), *then]
        self.upstream: Upstream = rig.upstream(self._serve)
        self.gateway = rig.forward(self.upstream, route={"cache": {"stale_if_disconnected": "1s"}, "attempts": 1})
        self.client: Client = rig.connect(self.gateway)

    def _serve(self, conn: Connection) -> None:
        while True:
            conn.read_request()
            asked = len(self.upstream.requests)
            conn.send(self._answers[min(asked, len(self._answers)) - 1])

    def get(self, *fields: tuple[str, str], method: str = "GET") -> Response:
        return self.client.request(method, "/r", *fields)

    @property
    def asked(self) -> int:
        return len(self.upstream.requests)


def validated(*fields: bytes) -> bytes:
    return NOT_MODIFIED + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def is_whole(answer: Response, body: bytes = BODY) -> None:
    """Whether the response has the stored body, its coding and one length."""
    assert answer.status == 200
    assert answer.body == body
    assert answer.get("content-encoding") == b"gzip"
    assert answer.get("content-length") == b"%d" % len(body)
    assert answer.all("transfer-encoding") == []


STRANGE: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "a length of its own": (b"Content-Length: 0",),
    "another length": (b"Content-Length: 999",),
    "another coding": (b"Content-Encoding: br",),
    "no coding": (b"Content-Encoding: identity",),
    "a range": (b"Content-Range: bytes 0-1/2",),
    "hop by hop": (b"Connection: close, X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=1"),
    "a type": (b"Content-Type: application/json",),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("validator", [b'ETag: "a"', b'ETag: W/"a"', MODIFIED])
def test_a_304_never_touches_the_body(rig: Rig, name: str, validator: bytes) -> None:
    fresh = validated(validator, b"Cache-Control: max-age=60", b"X-New: 1", *STRANGE[name])
    origin = Origin(rig, (*STALE, validator), fresh)
    is_whole(origin.get())
    for _ in range(3):
        answer = origin.get()
        is_whole(answer)
        assert (answer.get("x-new"), answer.get("x-old")) == (b"1", b"1")
        assert answer.get("cache-control") == b"max-age=60"
        assert answer.get("age") in (b"0", None)
        for hidden in ("x-hop", "content-range", "keep-alive"):
            assert answer.all(hidden) == []
    assert origin.asked == 2, "the new lifetime was written back"
    asked = origin.upstream.requests[1]
    if validator is MODIFIED:
        assert asked.get("if-modified-since") == MODIFIED.partition(b": ")[2] and not asked.all("if-none-match")
    else:
        assert asked.get("if-none-match") == validator.partition(b": ")[2]


def test_without_a_new_lifetime_the_stored_one_begins_again(rig: Rig) -> None:
    """A bare 304 neither ends the stored response nor makes it fresh forever."""
    first = (b"Cache-Control: max-age=100", b"Age: 200", b"Content-Encoding: gzip", b'ETag: "a"')
    origin = Origin(rig, first, validated())
    for _ in range(4):
        is_whole(origin.get())
    assert origin.asked == 2
    answer = origin.get()
    assert answer.get("age") in (b"0", b"1", b"2", b"3"), "it is as old as the validation"


def test_a_304_may_be_old_itself(rig: Rig) -> None:
    fresh = validated(b'ETag: "a"', b"Cache-Control: max-age=60", b"Age: 50")
    origin = Origin(rig, (*STALE, b'ETag: "a"'), fresh)
    origin.get()
    origin.get()
    assert int(origin.get().get("age") or 0) >= 50
    old = Origin(rig, (*STALE, b'ETag: "a"'), validated(b'ETag: "a"', b"Cache-Control: max-age=60", b"Age: 70"))
    for expected in (1, 2, 3):
        is_whole(old.get())
        assert old.asked == expected


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b'ETag: "a"', b'ETag: "b"'),
        (b'ETag: "a"', b'ETag: W/"b"'),
        (b'ETag: W/"a"', b'ETag: "a"'),
        (MODIFIED, b"Last-Modified: Mon, 07 Nov 1994 08:49:37 GMT"),
        (MODIFIED, b'ETag: "b"'),
    ],
)
def test_a_304_about_another_response_updates_nothing(rig: Rig, stored: bytes, said: bytes) -> None:
    """The request is repeated without a condition, and its response is served."""
    other = validated(said, b"Cache-Control: max-age=60", b"X-New: 1")
    origin = Origin(rig, (*STALE, stored), other, ok(b"new", b"Cache-Control: max-age=60"))
    is_whole(origin.get())
    for _ in range(2):
        answer = origin.get()
        assert (answer.status, answer.body, answer.all("x-new"), answer.all("x-old")) == (200, b"new", [], [])
        assert not answer.all("content-encoding")
    assert origin.asked == 3
    last = origin.upstream.requests[2]
    assert not last.all("if-none-match") and not last.all("if-modified-since")


MATCHING = [("If-None-Match", '"a"'), ("If-None-Match", 'W/"a", "z"'), ("If-None-Match", "*")]


@pytest.mark.parametrize("condition", MATCHING)
def test_a_client_s_condition_is_answered_from_what_was_freshened(rig: Rig, condition: tuple[str, str]) -> None:
    origin = Origin(rig, (*STALE, b'ETag: "a"'), validated(b'ETag: "a"', b"Cache-Control: max-age=60", b"X-New: 1"))
    origin.get()
    for _ in range(2):
        answer = origin.get(condition)
        assert (answer.status, answer.body, answer.get("etag")) == (304, b"", b'"a"')
    for other in (("If-None-Match", '"z"'), ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")):
        is_whole(origin.get(other))
    assert origin.asked == 2
    assert origin.upstream.requests[1].get("if-none-match") == b'"a"', "its own validator, not the client's"


@pytest.mark.parametrize("condition", [("If-None-Match", '"z"'), ("If-None-Match", '"a", "z"')])
def test_a_condition_of_the_client_alone_validates_nothing_of_the_store(rig: Rig, condition: tuple[str, str]) -> None:
    """The stored response is stale. The client has "z", which the service now serves again.

    The 304 validates what the client has, not what is stored.
    """
    new = ok(b"z", b"Cache-Control: max-age=60", b'ETag: "z"')
    origin = Origin(rig, (*STALE, b'ETag: "a"'), new)
    origin.get()
    answer = origin.get(condition)
    assert (answer.status, answer.get("etag")) == (304, b'"z"')
    assert origin.get().body == b"z"
    assert origin.asked == 2


def test_a_range_is_taken_from_what_was_freshened(rig: Rig) -> None:
    origin = Origin(rig, (*STALE, b'ETag: "a"'), validated(b'ETag: "a"', b"Cache-Control: max-age=60"))
    origin.get()
    for _ in range(2):
        answer = origin.get(("Range", "bytes=1-4"))
        assert (answer.status, answer.body) == (206, BODY[1:5])
        assert answer.get("content-encoding") == b"gzip"
    assert origin.asked == 2 and not origin.upstream.requests[1].all("range")


@pytest.mark.parametrize("control", [b"no-store", b"private", b"private, max-age=60"])
def test_a_304_may_take_the_permission_back(rig: Rig, control: bytes) -> None:
    taken = validated(b'ETag: "a"', b"Cache-Control: " + control)
    origin = Origin(rig, (*STALE, b'ETag: "a"'), taken, ok(BODY, b"Content-Encoding: gzip"))
    for _ in range(3):
        is_whole(origin.get())
    assert origin.asked == 3
    assert not origin.upstream.requests[2].all("if-none-match"), "the stored response was not invalidated"


def test_a_cookie_of_a_304_is_the_one_client_s(rig: Rig) -> None:
    fresh = validated(b'ETag: "a"', b"Cache-Control: max-age=60", b"Set-Cookie: sid=1", b"Set-Cookie: b=2")
    origin = Origin(rig, (*STALE, b'ETag: "a"'), fresh)
    origin.get()
    assert origin.get().all("set-cookie") == [b"sid=1", b"b=2"]
    assert origin.get().all("set-cookie") == []
    assert origin.asked == 2


def test_repeated_fields_are_replaced_together(rig: Rig) -> None:
    first = (*STALE, b'ETag: "a"', b"Link: <1>", b"Link: <2>", b"X-Kept: 1", b"X-Kept: 2")
    origin = Origin(rig, first, validated(b"Cache-Control: max-age=60", b"Link: <3>", b"Link: <4>"))
    origin.get()
    for _ in range(2):
        answer = origin.get()
        assert (answer.all("link"), answer.all("x-kept")) == ([b"<3>", b"<4>"], [b"1", b"2"])


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
def test_another_answer_than_304_takes_the_place(rig: Rig, status: bytes) -> None:
    new = ok(b"new", b"Cache-Control: max-age=60").replace(b"200 OK", status, 1)
    origin = Origin(rig, (*STALE, b'ETag: "a"'), new)
    origin.get()
    for _ in range(2):
        answer = origin.get()
        assert (answer.status, answer.body) == (int(status[:3]), b"new")
        assert answer.all("x-old") == answer.all("content-encoding") == answer.all("etag") == []
    assert origin.asked == 2


def test_a_bare_304_to_a_request_without_a_condition_is_not_stored(rig: Rig) -> None:
    origin = Origin(rig, (), validated(b'ETag: "a"', b"Cache-Control: max-age=60"))
    origin._answers[0] = validated(b'ETag: "a"', b"Cache-Control: max-age=60")
    assert origin.get(("If-Match", '"a"')).status == 304
    origin._answers[1] = ok(b"whole")
    assert origin.get().body == b"whole"


def test_each_variant_is_freshened_by_its_own_304(rig: Rig) -> None:
    def serve(conn: Connection) -> None:
        while True:
            request = conn.read_request()
            language = request.get("accept-language") or b"-"
            tag = b'ETag: "%b"' % language
            if request.get("if-none-match") == b'"%b"' % language:
                conn.send(validated(tag, b"Cache-Control: max-age=60", b"X-New: " + language))
            else:
                conn.send(ok(language, b"Cache-Control: max-age=1", b"Age: 100", tag, b"Vary: Accept-Language"))

    upstream = rig.upstream(serve)
    client = rig.connect(rig.forward(upstream, route={"cache": {}}))

    def get(language: str) -> Response:
        return client.request("GET", "/r", ("Accept-Language", language))

    for language in ("fr", "de"):
        assert get(language).body == language.encode()
    for _ in range(2):
        for language in ("fr", "de"):
            answer = get(language)
            assert (answer.body, answer.get("x-new")) == (language.encode(), language.encode())
    assert len(upstream.requests) == 4


def test_the_response_to_a_head_request_freshens_too(rig: Rig) -> None:
    """A HEAD that agrees in length and validators updates the stored response; any other invalidates it.

    RFC 9111 §4.3.5.
    """
    same = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "a"\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n'
    origin = Origin(rig, (*STALE, b'ETag: "a"'), same % len(BODY))
    origin.get()
    assert origin.get(method="HEAD").status == 200
    answer = origin.get()
    is_whole(answer)
    assert (answer.get("x-new"), origin.asked) == (b"1", 2)
    other = Origin(rig, (*STALE, b'ETag: "a"'), same % (len(BODY) + 1), ok(b"new"))
    other.get()
    other.get(method="HEAD")
    assert other.get().body == b"new"
