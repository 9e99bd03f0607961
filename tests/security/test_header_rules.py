"""Header rules as pure functions: added, removed and unchanged lines."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from passerelle.security.header_rules import RequestHeaderRules, SecurityHeaderFields, lines_of, without

names = st.from_regex(rb"[A-Za-z][A-Za-z_-]{0,8}", fullmatch=True)
values = st.from_regex(rb"[!-~]?([ -~]{0,12}[!-~])?", fullmatch=True)
sections = st.lists(st.tuples(names, values), max_size=8)


def written(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


@given(sections, st.lists(names, min_size=1, max_size=3))
def test_exactly_the_named_lines_go(fields: list[tuple[bytes, bytes]], chosen: list[bytes]) -> None:
    kept = [field for field in fields if field[0].lower() not in {name.lower() for name in chosen}]
    assert without(written(fields), lines_of(chosen)) == written(kept)


@given(sections, st.lists(names, min_size=1, max_size=3))
def test_also_under_the_names_that_wsgi_reads_as_theirs(fields: list[tuple[bytes, bytes]], chosen: list[bytes]) -> None:
    plain = {name.lower().replace(b"_", b"-") for name in chosen}
    kept = [field for field in fields if field[0].lower().replace(b"_", b"-") not in plain]
    assert without(written(fields), lines_of(chosen, aliases=True)) == written(kept)


def test_a_name_is_no_pattern_and_no_part_of_another() -> None:
    section = b"X-A: 1\r\nXX-A: 2\r\nX-AB: 3\r\nY: X-A: 4\r\nx.a: 5\r\n"
    assert without(section, lines_of([b"x-a"])) == b"XX-A: 2\r\nX-AB: 3\r\nY: X-A: 4\r\nx.a: 5\r\n"
    assert without(section, lines_of([b"x.a"])) == section[:-8]


def test_set_takes_the_place_of_all_and_add_comes_beside() -> None:
    rules = RequestHeaderRules({b"X-Set": b"new"}, {b"X-Add": b"more"}, [b"X-Gone"])
    section = b"x-set: old\r\nHost: a\r\nX-Set: older\r\nX-Add: one\r\nX_Gone: 1\r\n"
    assert rules.apply(section, {}) == b"Host: a\r\nX-Add: one\r\nX-Set: new\r\nX-Add: more\r\n"


def test_parameters_of_the_path() -> None:
    rules = RequestHeaderRules({b"X-User": b"u-{user}/{rest}", b"X-Json": b'{"a": 1}'}, {b"X-Rest": b"{rest}"}, [])
    params = {"user": b"%0D%0AX-Evil:1", "rest": b""}
    assert rules.apply(b"Host: a\r\n", params) == (
        b'Host: a\r\nX-User: u-%0D%0AX-Evil:1/\r\nX-Json: {"a": 1}\r\nX-Rest: \r\n'
    )


def test_a_default_is_not_added_to_a_header_that_is_present() -> None:
    fields = SecurityHeaderFields([(b"X-Frame-Options", b"DENY"), (b"Referrer-Policy", b"no-referrer")], b"max-age=9")
    head = b"HTTP/1.1 200 OK\r\nx-frame-options: SAMEORIGIN\r\nY: Referrer-Policy: x\r\n"
    assert fields.lines(head, False) == b"Referrer-Policy: no-referrer\r\n"
    assert fields.lines(head, True) == b"Referrer-Policy: no-referrer\r\nStrict-Transport-Security: max-age=9\r\n"
    plain = b"HTTP/1.1 200 OK\r\n"
    assert re.findall(rb"([\w-]+):", fields.lines(plain, True)) == [
        *(b"X-Frame-Options", b"Referrer-Policy", b"Strict-Transport-Security"),
    ]
    assert SecurityHeaderFields([], None).lines(plain, True) == b""
