"""The values that plugins return: what they may contain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from passerelle.plugins import Allow, Headers, Refuse, Request, RequestChange, ResponseChange

WRONG: list[Callable[[], Any]] = [
    lambda: Allow(consumer=""),
    lambda: Allow(consumer="a\r\nX: 1"),
    lambda: Allow(scopes=["a"]),
    lambda: Allow(consumer="a", scopes="read"),
    lambda: Allow(consumer="a", scopes=['"']),
    lambda: Allow(headers={"Host": "a"}),
    lambda: Allow(headers={"X-Consumer": "root"}),
    lambda: Allow(headers={"x_forwarded_for": "1.1.1.1"}),
    lambda: Allow(headers={"X-A": "a\r\nX-B: b"}),
    lambda: Allow(headers={"X-A": ["a", "b\n"]}),
    lambda: Allow(headers={"X A": "a"}),
    lambda: Allow(headers={"X-A": "a" * 10_000}),
    lambda: Refuse(200),
    lambda: Refuse(304),
    lambda: Refuse(600),
    lambda: Refuse(403, {"Content-Length": "1"}),
    lambda: Refuse(403, body="text"),
    lambda: RequestChange({"Range": "bytes=0-1"}),
    lambda: RequestChange(remove_headers="X-A"),
    lambda: RequestChange(remove_headers=["Transfer-Encoding"]),
    lambda: RequestChange(query="a b"),
    lambda: RequestChange(query="a\r\n"),
    lambda: RequestChange(query="a#b"),
    lambda: ResponseChange(status=204),
    lambda: ResponseChange(status=101),
    lambda: ResponseChange(set_headers={"Content-Encoding": "gzip"}),
    lambda: ResponseChange(set_headers={"Access-Control-Allow-Origin": "*"}),
    lambda: ResponseChange(remove_headers=["Connection"]),
    lambda: ResponseChange(body="text"),
]


@pytest.mark.parametrize("make", WRONG)
def test_values_that_would_break_a_message_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        make()


def test_values_that_are_allowed() -> None:
    Allow(
        consumer="Ann B",
        scopes=["a:b"],
        claims={"x": 1},
        headers={"X-A": ["", "caf\u00e9"], "Authorization": "Bearer x"},
    )
    Refuse(302, {"Location": "/login", "Set-Cookie": ["a=1", "b=2"]})
    RequestChange({"X-A": "1"}, ["Cookie"], "")
    ResponseChange(500, {"Vary": "X-A"}, ["ETag"], b"")


def test_headers_are_a_mapping_in_any_case() -> None:
    headers = Headers([("X-A", "1"), ("x-a", "2"), ("B", "3")])
    assert (headers["X-a"], headers.get("b"), headers.get("c")) == ("1, 2", "3", None)
    assert (list(headers), len(headers), "X-A" in headers) == (["x-a", "b"], 2, True)
    assert headers.get_all("x-A") == ["1", "2"]
    assert dict(Headers({"A": "1"})) == {"a": "1"}
    assert Request().headers.get("a") is None
