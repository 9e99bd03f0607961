"""Cache-Control as services write it: never an error, and never more caching than it allows (RFC 9111 §4.2.1, §5.2)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.upstream import Connection, Upstream, ok
from tests.support.wire import Response

STORED, NOT = True, False

# Cache-Control lines of a response, and whether it is reused without validation.
RESPONSES: dict[tuple[str, ...], bool] = {
    ('max-age=60, public, no-cache="Set-Cookie"',): STORED,
    ('private="X-A, X-B", max-age=60',): STORED,
    ("public; max-age=30",): NOT,
    ('max-age="60"',): STORED,
    ("MAX-AGE=60",): STORED,
    ("Max-Age=60, PUBLIC",): STORED,
    ("max-age = 60",): NOT,
    ("max-age= 60",): NOT,
    ("max-age=-1",): NOT,
    ("max-age=1.5",): NOT,
    ("max-age=+60",): NOT,
    ("max-age=0x3c",): NOT,
    ("max-age=6 0",): NOT,
    ("max-age=",): NOT,
    ("max-age",): NOT,
    ('max-age=""',): NOT,
    ("max-age=60s",): NOT,
    ("max-age=0060",): STORED,
    ("max-age=60, max-age=0",): NOT,
    ("max-age=60", "max-age=0"): NOT,
    ("max-age=0", "max-age=60"): NOT,
    ("max-age=60, max-age=60",): STORED,
    ("max-age=60, s-maxage=0",): NOT,
    ("max-age=0, s-maxage=60",): STORED,
    ("max-age=99999999999999999999",): STORED,
    ("max-age=" + "9" * 5000,): STORED,
    ('ext="no-store", max-age=60',): STORED,
    ('ext="no-store, private", max-age=60',): STORED,
    ('ext="a\\", no-store, b=\\"", max-age=60',): STORED,
    ("max-age=60, no-store",): NOT,
    ("max-age=60", "no-store"): NOT,
    ("max-age=60, NO-STORE",): NOT,
    ("max-age=60,no-store=1",): NOT,
    ("max-age=60, no-store; x",): STORED,  # one unknown directive, like "public; max-age"
    ("max-age=60, no-storex",): STORED,
    ("max-age=60, x-no-store",): STORED,
    ("max-age=60, private",): NOT,
    ("max-age=60, private, public",): NOT,
    ('max-age=60, private=""',): NOT,
    ('max-age=60, private="a',): NOT,
    ("max-age=60, no-cache",): NOT,
    ('max-age=60, no-cache="a',): NOT,
    ('max-age=60, no-cache="Content-Type"',): NOT,
    (",,max-age=60,",): STORED,
    (" , ,\tmax-age=60 ,",): STORED,
    ("," * 8192,): NOT,
    ("," * 8192 + "max-age=60",): STORED,
    ("max-age=60" + ", x" * 2000,): STORED,
    ('=, =60, ;, ", max-age=60',): NOT,
    ('max-age=60, "',): STORED,
    ("",): NOT,
    ("", "max-age=60"): STORED,
    ("\xe9=1, max-age=60",): STORED,
    ("max-age=6\xb2",): NOT,
    ("must-revalidate, max-age=60",): STORED,
    ("immutable",): NOT,
}


class Origin:
    """Respond to the n-th path with the n-th lines; number the responses."""

    def __init__(self, rig: Rig, name: bytes = b"Cache-Control") -> None:
        self.lines: list[list[bytes]] = []
        self.name = name
        self.more: tuple[bytes, ...] = ()
        self.upstream: Upstream = rig.upstream(self._serve)
        limits = {"head": "64KiB"}
        self.client: Client = rig.connect(rig.forward(self.upstream, route={"cache": {}}, limits=limits))

    def _serve(self, conn: Connection) -> None:
        while True:
            request = conn.read_request()
            lines = self.lines[int(request.target[1:])]
            fields = [self.name + b": " + line for line in lines]
            conn.send(ok(b"%d" % len(self.upstream.requests), *fields, *self.more))

    def ask(self, *lines: bytes) -> tuple[Response, Response]:
        """Return two responses to requests for one new path."""
        self.lines.append(list(lines))
        path = f"/{len(self.lines) - 1}"
        first, second = self.client.request("GET", path), self.client.request("GET", path)
        return first, second


@pytest.mark.parametrize("lines", RESPONSES)
def test_a_response_is_relayed_as_it_is_and_used_again_where_it_may_be(rig: Rig, lines: tuple[str, ...]) -> None:
    origin = Origin(rig)
    origin.more = (b"X-A: 1", b"X-C: 1")
    if "Set-Cookie" in lines[0]:
        origin.more += (b"Set-Cookie: a=1",)
    raw = [line.encode("latin-1") for line in lines]
    first, second = origin.ask(*raw)
    assert (first.status, second.status) == (200, 200)
    assert first.all("cache-control") == [line.strip(b" \t") for line in raw]
    assert first.all("x-a") == [b"1"]
    assert (second.body == first.body) is RESPONSES[lines]
    if RESPONSES[lines]:
        assert second.all("x-c") == [b"1"]
        assert second.all("x-a") == ([] if '"X-A' in lines[0] else [b"1"]), "what was one client's own"
        assert second.all("set-cookie") == []


@pytest.mark.parametrize("value", ["no-store", "private", "no-cache", "max-age=0", "s-maxage=0", "no-store="])
@pytest.mark.parametrize(
    "form", ["{}", "  {}  ", "{},", ",{}", "x, {}", "{}, x", 'x="y", {}', "{}, public", "X={}, {}"]
)
def test_a_prohibition_is_found_wherever_it_is(rig: Rig, form: str, value: str) -> None:
    origin = Origin(rig)
    lines = [form.replace("{}", value).encode(), b"max-age=60"]
    if value.startswith(("max-age", "s-maxage")):
        lines = [form.replace("{}", value).encode()]
    for order in (lines, lines[::-1]):
        first, second = origin.ask(*order)
        assert first.status == second.status == 200
        assert first.body != second.body


REQUESTS: dict[tuple[str, ...], bool] = {
    ("no-cache",): NOT,
    ("NO-CACHE",): NOT,
    ("max-age=0",): NOT,
    ('max-age="0"',): NOT,
    ("max-age=60",): STORED,
    ("max-age=60, max-age=0",): NOT,
    ("max-age=99999999999999999999",): STORED,
    ("no-store",): NOT,
    ('x="no-cache"',): STORED,
    ("x=no-cache",): STORED,
    (",,,",): STORED,
    ("," * 4096,): STORED,
    ("",): STORED,
    ("max-stale",): STORED,
    ("max-stale=x",): STORED,
    ("min-fresh=99999999999999999999",): NOT,
    ("nothing-to-see-here",): STORED,
    ("only-if-cached",): STORED,
    ("\xe9",): STORED,
}


@pytest.mark.parametrize("lines", REQUESTS)
def test_a_request_s_directives_are_read_the_same_way(rig: Rig, lines: tuple[str, ...]) -> None:
    origin = Origin(rig)
    first, _ = origin.ask(b"max-age=3600")
    fields = b"".join(b"Cache-Control: %b\r\n" % line.encode("latin-1") for line in lines)
    origin.client.send(b"GET /0 HTTP/1.1\r\nHost: gw\r\n%b\r\n" % fields)
    answer = origin.client.read_response()
    assert answer.status == 200
    assert (answer.body == first.body) is REQUESTS[lines]


TARGETED: dict[str, bool] = {
    "max-age=60": STORED,
    'max-age=60, x="no-store"': STORED,
    "max-age=60, no-store": NOT,
    "max-age=60;ext=1": STORED,
    "private, max-age=60": NOT,
    "max-age=0": NOT,
    # A value that is not a Dictionary, or a member of another type, is ignored: the Cache-Control next to it applies.
    "max-age=60, NO-STORE": NOT,
    'max-age="60"': NOT,
    "max-age=6.0": NOT,
    "max-age=99999999999999999999": NOT,
    "max-age = 60": NOT,
    ",max-age=60": NOT,
    "max-age=60,": NOT,
    "": NOT,
    "\xe9": NOT,
}


@pytest.mark.parametrize("value", TARGETED)
def test_a_targeted_field_is_structured_and_a_broken_one_is_none(rig: Rig, value: str) -> None:
    origin = Origin(rig, b"CDN-Cache-Control")
    origin.more = (b"Cache-Control: no-store",)
    first, second = origin.ask(value.encode("latin-1"))
    assert first.status == second.status == 200
    assert (first.body == second.body) is TARGETED[value]


_PIECES = st.sampled_from(
    [
        *("max-age", "s-maxage", "no-store", "private", "public", "no-cache", "must-understand", "Set-Cookie"),
        *("stale-while-revalidate", "stale-if-error", "=", '"', ",", ";", " ", "\t", "\\", "60", "0", "-", "1.5"),
        *("é", "9" * 30),
    ]
)


def test_whatever_is_written_the_client_gets_the_answer(rig: Rig) -> None:
    origin = Origin(rig)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.lists(_PIECES, max_size=12).map("".join), min_size=1, max_size=3))
    def check(lines: list[str]) -> None:
        first, second = origin.ask(*(line.encode("latin-1") for line in lines))
        assert first.status == second.status == 200
        text = ", ".join(lines)
        if '"' not in text and "must-understand" not in text:
            forbidden = "no-store" in [member.strip(" \t").lower() for member in text.split(",")]
            assert first.body != second.body or not forbidden

    check()
