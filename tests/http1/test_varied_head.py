"""Heads with a few lines that vary on a connection: when that is learned, and its bounds."""

from __future__ import annotations

import pytest

from passerelle.errors import Failure
from passerelle.http1.field_lines import PATTERN_AFTER
from passerelle.http1.head import RequestHead
from passerelle.http1.varied_head import VariedHead, next_head

LINES = {
    "Host": "shop.example",
    "User-Agent": "test",
    "Accept": "*/*",
    "Authorization": "Bearer a",
    "X-Trace": "0",
    "Cookie": "a=1",
    "X-Last": "1",
}


def section(**changed: str) -> bytes:
    lines = LINES | {name.replace("_", "-"): value for name, value in changed.items()}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()


def read(sections: list[bytes], last: RequestHead | None = None) -> RequestHead:
    """Read ``sections`` as one connection does."""
    for each in sections:
        if last is None or last.section != each:
            last = next_head(each, 100, last)
    assert last is not None
    return last


def fields_of(received: bytes, last: RequestHead | None) -> object:
    """Return the fields of a section on a connection with the head ``last``, or None if it is refused."""
    try:
        return next_head(received, 100, last).fields
    except Failure:
        return None


@pytest.fixture
def warm() -> RequestHead:
    """The last head of a connection whose layout is in frequent use; trace ids have varied."""
    frequent = next_head(section(), 100, None)
    while frequent.layout.uses < PATTERN_AFTER:
        frequent = next_head(section(), 100, None)
    return read([section(X_Trace=str(number)) for number in range(4)])


def test_a_head_that_varies_in_a_known_line_is_compared_with_its_template(warm: RequestHead) -> None:
    head = read([section(X_Trace="a longer one")], warm)
    assert isinstance(head, VariedHead)
    assert head.get(b"x-trace") == b"a longer one" and head.get(b"authorization") == b"Bearer a"
    assert head.relay == section(X_Trace="a longer one") and head.host == b"shop.example" and head.plain


def test_lines_for_the_upstream_are_derived_from_the_first_head_that_has_them(warm: RequestHead) -> None:
    warm.upstream = warm.relay + b"Via: a\r\n"
    warm.part_fields = warm.relay_without(frozenset({b"accept"})) + b"Accept: application/json\r\n"
    received = section(X_Trace="24")
    head = read([received], warm)
    assert isinstance(head, VariedHead)
    assert head.upstream == received + b"Via: a\r\n"
    assert head.part_fields == received.replace(b"Accept: */*\r\n", b"") + b"Accept: application/json\r\n"


def test_a_field_that_parts_do_not_get_is_not_derived_for_them() -> None:
    own = b"Accept: application/json\r\n"
    accepts = [section(Accept=f"text/{number}") for number in range(40)] + [section(Accept="application/json")] * 2
    last = None
    for each in accepts:
        last = (
            next_head(each, 100, None) if last is None else next_head(each, 100, last) if each != last.section else last
        )
        last.part_fields = own + last.relay_without(frozenset({b"accept"}))
    head = next_head(section(Accept="text/plain"), 100, last)
    assert isinstance(head, VariedHead) and head.part_fields is None


@pytest.mark.parametrize("changed", [{"Host": "other.example"}, {"User-Agent": "other"}])
def test_a_line_that_routes_is_never_taken_from_the_template(warm: RequestHead, changed: dict[str, str]) -> None:
    head = read([section(**changed)], warm)
    assert not isinstance(head, VariedHead) and head.section == section(**changed)
    assert (head.host, head.user_agent) == (
        changed.get("Host", "shop.example").encode(),
        changed.get("User-Agent", "test").encode(),
    )


@pytest.mark.parametrize(
    "value", ["a\nb", "a\rb", "a\0", "a\r\nX: b", "a\r\n b", "a\r\nTransfer-Encoding: chunked", "a\r\n"]
)
def test_octets_in_the_lines_that_vary_are_checked(warm: RequestHead, value: str) -> None:
    received = section(X_Trace=value)
    try:
        expected: object = RequestHead(received, 100).fields
    except Failure:
        expected = None
    try:
        head: object = next_head(received, 100, warm).fields
    except Failure:
        head = None
    assert head == expected


@pytest.mark.parametrize(
    "cookie",
    ["c\nb", "c\rb", "c\0", "c\r\nX: b", "c\r\n b", "c\r\nTransfer-Encoding: chunked", "c\r\n", "c\r\nCookie: d"],
)
@pytest.mark.parametrize("trace", ["t", "t\n", "t\0", "t\r\nCookie: d", "t\r\n"])
def test_octets_in_several_lines_that_vary_are_checked(warm: RequestHead, trace: str, cookie: str) -> None:
    last = read([section(X_Trace=f"t{number}", Cookie=f"c={number}") for number in range(40)], warm)
    assert isinstance(last, VariedHead) and isinstance(
        next_head(section(X_Trace="a", Cookie="b"), 100, last), VariedHead
    )
    for changed in ({"X_Trace": trace, "Cookie": cookie}, {"X_Trace": trace}, {"Cookie": cookie}):
        received = section(**changed)
        assert fields_of(received, last) == fields_of(received, None), received


def test_a_section_that_is_shorter_than_what_does_not_vary_does_not_fit(warm: RequestHead) -> None:
    whole = section(X_Trace="5")
    for size in range(1, len(whole), 7):
        for cut in (whole[:size], whole[-size:]):
            try:
                head = next_head(cut, 100, warm)
            except Failure:
                continue
            assert not isinstance(head, VariedHead) and head.section == cut


def test_fields_of_which_no_line_varies_are_found_once(warm: RequestHead) -> None:
    first, second = read([section(X_Trace="21")], warm), read([section(X_Trace="22")], warm)
    assert isinstance(first, VariedHead) and isinstance(second, VariedHead)
    assert [line.value for line in second.named(b"authorization")] == [b"Bearer a"]
    assert first.named(b"authorization") is second.named(b"authorization")
    assert [line.value for head in (first, second) for line in head.named(b"x-trace")] == [b"21", b"22"]
    # Names that a head lacks are not kept: guards could ask for any number of them.
    assert second.named(b"x-absent") == [] and set(second.variation.named) == {b"authorization"}


def test_nothing_is_learned_from_heads_that_never_settle() -> None:
    last = None
    for number in range(200):
        last = next_head(section(Host=f"h{number}.example"), 100, last)
    assert last is not None and last.variation is None and last.misses == 199


def test_a_template_keeps_no_other_template(warm: RequestHead) -> None:
    last = read([section(X_Trace=f"t{number}", Cookie=f"c={number}") for number in range(40)], warm)
    assert isinstance(last, VariedHead)
    assert last.variation.first == 4 and last.variation.end == 6
    assert last.variation.template.variation is None
