"""Sessions without a gateway: the store, the cookie, refusal of forged requests, login attempts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.errors import Failure, Kind
from passerelle.http1.head import RequestHead
from passerelle.security.cookies import HideCookies, values
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.login_throttle import AttemptLimit, LoginThrottle
from passerelle.security.credentials.session_store import Lifetimes, Session, SessionStore, digest_of, new_id
from passerelle.security.credentials.sessions import (
    MOST_COOKIES,
    FileSessionMethod,
    OriginCheck,
    SessionCookies,
    csrf_token,
)
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.security.identity import Identity
from passerelle.security.ratelimit.gcra import SECOND, BucketTable, Rate

ID = new_id()
DIGEST = digest_of(ID) or b""
COOKIES = SessionCookies.named("session", secure=True)
LIFETIMES = Lifetimes(idle=100.0, absolute=1000.0)


def asked(*fields: tuple[bytes, bytes], method: bytes = b"GET") -> GuardedCall:
    lines = [(b"Host", b"shop.example"), *fields]
    head = RequestHead(b"".join(b"%b: %b\r\n" % line for line in lines), 100)
    return GuardedCall(method, b"/", b"192.0.2.1", head)


def cookie(identity: bytes = ID) -> tuple[bytes, bytes]:
    return b"Cookie", b"a=1; __Host-session=%b; b=2" % identity


class Clock:
    now = 10_000.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """Store with one session, another connection to it, and a worker's authentication method."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.store, self.other = SessionStore(path), SessionStore(path)
        self.other.replace(None, DIGEST, Session("7", ("admin",), self.clock.now, self.clock.now))
        origin = OriginCheck((), token=True, secure=True)
        self.method = FileSessionMethod(self.store, COOKIES, LIFETIMES, origin, self.clock)

    def holds(self) -> bool:
        try:
            return isinstance(self.method.identify(asked(cookie())), Identity)
        except CredentialRejected:
            return False


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "sessions.db")
    yield made
    made.store.close()
    made.other.close()


class TestStore:
    def test_the_file_is_for_its_owner_and_holds_no_id(self, kept: Kept, tmp_path: Path) -> None:
        assert kept.store.path.stat().st_mode & 0o777 == 0o600
        for file in tmp_path.iterdir():
            assert ID not in file.read_bytes()

    def test_a_login_ends_the_session_before_it(self, kept: Kept) -> None:
        new = digest_of(new_id()) or b""
        kept.other.replace(DIGEST, new, Session("7", (), 1.0, 1.0))
        assert kept.store.find(DIGEST) is None
        assert kept.store.find(new) == Session("7", (), 1.0, 1.0)

    def test_a_use_brings_nothing_back_and_never_goes_backwards(self, kept: Kept) -> None:
        now = kept.clock.now
        kept.other.touch({DIGEST: now + 5}, LIFETIMES, now)
        kept.other.touch({DIGEST: now + 1}, LIFETIMES, now)
        found = kept.store.find(DIGEST)
        assert found is not None and found.used == now + 5
        kept.other.revoke(DIGEST)
        kept.other.touch({DIGEST: now + 9}, LIFETIMES, now)
        assert kept.store.find(DIGEST) is None

    @pytest.mark.parametrize("used", [0.0, 500.0])
    def test_what_is_over_is_swept(self, kept: Kept, used: float) -> None:
        now = kept.clock.now
        kept.other.touch({DIGEST: now + used}, LIFETIMES, now + 99)
        assert kept.store.find(DIGEST) is not None
        kept.other.touch({}, LIFETIMES, now + used + 100)
        assert kept.store.find(DIGEST) is None

    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(sqlite3.Error):
            SessionStore(tmp_path / "no" / "sessions.db")
        (tmp_path / "text").write_text("no database, but long enough to be read as one" * 100)
        with pytest.raises(sqlite3.Error):
            SessionStore(tmp_path / "text")

    def test_ids_are_of_one_form_and_never_the_same(self) -> None:
        assert len({new_id() for _ in range(1000)}) == 1000
        assert all(digest_of(new_id()) for _ in range(100))
        assert digest_of(b"") is None and digest_of(ID + b"A") is None and digest_of(ID[:-1] + b" ") is None


class TestCredential:
    def test_the_identity_of_a_session(self, kept: Kept) -> None:
        found = kept.method.identify(asked(cookie()))
        assert isinstance(found, Identity)
        assert found.lines == (
            b"X-Consumer: 7\r\nX-Consumer-Scopes: \r\nX-Consumer-Auth: session\r\nX-Consumer-Roles: admin\r\n"
        )
        assert found.claims == {"roles": ["admin"]}

    def test_none_at_all_and_none_that_holds(self, kept: Kept) -> None:
        assert kept.method.identify(asked((b"Cookie", b"session=%b" % ID))) is None
        refused = [new_id(), b"short", b""]
        for identity in refused:
            with pytest.raises(CredentialRejected):
                kept.method.identify(asked(cookie(identity)))

    def test_the_first_valid_of_several_cookies_counts(self, kept: Kept) -> None:
        old, name = new_id(), COOKIES.name
        for first, second in [(old, ID), (ID, old), (b"", ID), (b"short", ID), (ID, ID)]:
            pair = b"%b=%b; %b=%b" % (name, first, name, second)
            for call in (asked(cookie(first), cookie(second)), asked((b"Cookie", pair))):
                assert isinstance(kept.method.identify(call), Identity)
                assert kept.method.current_id(call) == ID
        with pytest.raises(CredentialRejected):
            kept.method.identify(asked(cookie(old), cookie(new_id())))

    def test_a_request_with_many_cookies_costs_few_look_ups(self, kept: Kept) -> None:
        with pytest.raises(CredentialRejected):
            kept.method.identify(asked(*[cookie(new_id()) for _ in range(MOST_COOKIES)], cookie()))

    def test_the_token_of_the_valid_cookie_is_needed(self, kept: Kept) -> None:
        page = (b"Origin", b"https://shop.example")
        old = new_id()
        good = asked(cookie(old), cookie(), page, (b"X-CSRF-Token", csrf_token(ID)), method=b"POST")
        assert isinstance(kept.method.identify(good), Identity)
        with pytest.raises(RequestRefused, match="CSRF"):
            kept.method.identify(asked(cookie(old), cookie(), page, (b"X-CSRF-Token", csrf_token(old)), method=b"POST"))

    def test_uses_keep_it_until_its_absolute_end(self, kept: Kept) -> None:
        for _ in range(10):
            assert kept.holds()
            kept.clock.now += 99
        assert kept.holds()
        kept.clock.now += 10
        assert not kept.holds()

    def test_it_ends_when_it_is_not_used(self, kept: Kept) -> None:
        assert kept.holds()
        kept.clock.now += 100
        assert not kept.holds()

    def test_uses_that_are_not_written_yet_count_after_a_change_of_the_file(self, kept: Kept) -> None:
        kept.clock.now += 90
        assert kept.holds()
        kept.other.replace(None, digest_of(new_id()) or b"", Session("8", (), 1.0, 1.0))
        kept.method.refresh()
        kept.clock.now += 90
        assert kept.holds()

    def test_an_end_elsewhere_is_seen(self, kept: Kept) -> None:
        assert kept.holds()
        kept.other.revoke(DIGEST)
        kept.method.refresh()
        assert not kept.holds()

    def test_a_file_that_replaces_the_store_is_seen(self, kept: Kept, tmp_path: Path) -> None:
        new = new_id()
        fresh = SessionStore(tmp_path / "new.db")
        now = kept.clock.now
        fresh.replace(None, digest_of(new) or b"", Session("8", (), now, now))
        fresh.close()
        assert kept.holds()
        kept.other.close()
        (tmp_path / "new.db").rename(tmp_path / "sessions.db")
        kept.method.refresh()
        assert not kept.holds()
        assert isinstance(kept.method.identify(asked(cookie(new))), Identity)

    def test_a_store_that_cannot_be_read_admits_no_request(self, kept: Kept) -> None:
        kept.store.close()
        kept.method.refresh()
        with pytest.raises(Failure) as caught:
            kept.method.identify(asked(cookie()))
        assert caught.value.kind is Kind.UNVERIFIABLE


OWN = (b"Origin", b"https://shop.example")
TOKEN = (b"X-CSRF-Token", csrf_token(ID))


class TestForgery:
    @pytest.mark.parametrize(
        ("fields", "allowed"),
        [
            ([TOKEN], True),
            ([OWN, TOKEN], True),
            ([(b"Sec-Fetch-Site", b"same-origin"), TOKEN], True),
            ([(b"Sec-Fetch-Site", b"none"), TOKEN], True),
            ([(b"Origin", b"https://app.example"), (b"Sec-Fetch-Site", b"cross-site"), TOKEN], True),
            ([], False),
            ([OWN], False),
            ([(b"Sec-Fetch-Site", b"same-origin")], False),
            ([(b"X-CSRF-Token", csrf_token(new_id()))], False),
            ([(b"X-CSRF-Token", b"")], False),
            ([TOKEN, TOKEN], False),
            ([(b"Origin", b"https://evil.example"), TOKEN], False),
            ([(b"Origin", b"https://shop.example.evil.example"), TOKEN], False),
            ([(b"Origin", b"https://shop.example:444"), TOKEN], False),
            ([(b"Origin", b"http://shop.example"), TOKEN], False),
            ([(b"Origin", b"null"), TOKEN], False),
            ([OWN, (b"Origin", b"https://evil.example"), TOKEN], False),
            ([OWN, (b"Sec-Fetch-Site", b"same-site"), TOKEN], False),
            ([OWN, (b"Sec-Fetch-Site", b"cross-site"), TOKEN], False),
            ([(b"Sec-Fetch-Site", b"same-origin"), (b"Sec-Fetch-Site", b"cross-site"), TOKEN], False),
        ],
    )
    @pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"QUERY"])
    def test_what_changes_something(self, method: bytes, fields: list[tuple[bytes, bytes]], allowed: bool) -> None:
        origin = OriginCheck(("https://app.example",), token=True, secure=True)
        assert (origin.objection(asked(*fields, method=method), ID) == "") is allowed

    @pytest.mark.parametrize(
        ("fields", "allowed"),
        [([OWN], True), ([(b"Sec-Fetch-Site", b"same-origin")], True), ([], False), ([TOKEN], False)],
    )
    def test_by_origin_alone(self, fields: list[tuple[bytes, bytes]], allowed: bool) -> None:
        origin = OriginCheck((), token=False, secure=True)
        assert (origin.objection(asked(*fields, method=b"POST"), ID) == "") is allowed

    def test_reading_is_free_and_a_socket_is_not(self) -> None:
        origin = OriginCheck((), token=True, secure=True)
        evil = (b"Origin", b"https://evil.example")
        for method in (b"GET", b"HEAD", b"OPTIONS"):
            assert origin.objection(asked(evil, method=method), ID) == ""
        assert origin.objection(asked(evil, (b"Upgrade", b"websocket")), ID)
        assert origin.objection(asked(OWN, (b"Upgrade", b"websocket")), ID) == ""

    def test_a_login_needs_no_token_but_no_foreign_page_may_make_it(self) -> None:
        origin = OriginCheck((), token=True, secure=True)
        assert origin.objection(asked(method=b"POST"), None) == ""
        assert origin.objection(asked((b"Sec-Fetch-Site", b"cross-site"), method=b"POST"), None)

    def test_plain_http_is_for_insecure_cookies(self) -> None:
        plain = (b"Origin", b"http://shop.example")
        origin = OriginCheck((), token=True, secure=False)
        assert origin.objection(asked(plain, TOKEN, method=b"POST"), ID) == ""

    def test_the_token_does_not_give_the_id_away(self) -> None:
        assert csrf_token(ID) != ID and csrf_token(ID) == csrf_token(ID) and len(csrf_token(ID)) == 43


class TestCookies:
    def test_lines(self) -> None:
        own, token = COOKIES.set_lines(ID, 60).split(b"\r\n")[:2]
        assert own == b"Set-Cookie: __Host-session=%b; Path=/; SameSite=Lax; Max-Age=60; Secure; HttpOnly" % ID
        assert token == (
            b"Set-Cookie: __Host-session-csrf=%b; Path=/; SameSite=Lax; Max-Age=60; Secure" % csrf_token(ID)
        )
        plain = SessionCookies.named("session", secure=False)
        assert plain.set_lines(ID, 60).startswith(b"Set-Cookie: session=%b; Path=/; SameSite=Lax; Max-Age=60; H" % ID)
        assert COOKIES.clear_lines().count(b"Max-Age=0") == 2

    def test_only_the_own_cookie_is_hidden(self) -> None:
        request = asked((b"Cookie", b"a=1;__Host-session=x ; b=2"), (b"cookie", b"__Host-session=y"), (b"X", b"a=1"))
        section = b"".join(field.line + b"\r\n" for field in request.fields)
        HideCookies([b"__Host-session"])(request)
        assert request.upstream_section(section) == b"Host: shop.example\r\nCookie: a=1; b=2\r\nX: a=1\r\n"

    @given(st.lists(st.sampled_from([b"s=1", b"xs=2", b"s", b"=s", b"s=", b"", b" s = 3 ", b"S=4"])))
    def test_no_spelling_of_the_cookie_goes_on(self, pairs: list[bytes]) -> None:
        request = asked((b"Cookie", b";".join(pairs)))
        section = b"".join(field.line + b"\r\n" for field in request.fields)
        HideCookies([b"s"])(request)
        carried = RequestHead(request.upstream_section(section), 100)
        assert values(GuardedCall(b"GET", b"/", b"", carried), b"s") == []
        assert values(GuardedCall(b"GET", b"/", b"", carried), b"xs") == [b"2"] * pairs.count(b"xs=2")


class TestAttempts:
    def make(self, now: list[int]) -> LoginThrottle:
        def of(number: int) -> AttemptLimit:
            return AttemptLimit(Rate(1, 60 * SECOND, number), BucketTable())

        return LoginThrottle(of(5), of(20), lambda: now[0])

    def test_five_wrong_ones_then_one_a_minute(self) -> None:
        now = [SECOND]
        logins = self.make(now)
        assert [logins.take("ada", b"a") for _ in range(6)] == [0, 0, 0, 0, 0, 60]
        assert logins.take("ADA ", b"b") == 60  # from all addresses, in every spelling
        assert logins.take("bob", b"a") == 0
        now[0] += 60 * SECOND
        assert [logins.take("ada", b"a") for _ in range(2)] == [0, 60]

    def test_right_ones_cost_nothing_and_wipe_nothing_out(self) -> None:
        now = [SECOND]
        logins = self.make(now)
        for _ in range(50):
            assert logins.take("ada", b"a") == 0
            logins.restore("ada", b"a")
        assert [logins.take("ada", b"a") for _ in range(4)] == [0] * 4
        assert logins.take("ada", b"b") == 0
        logins.restore("ada", b"b")
        assert [logins.take("ada", b"a") for _ in range(2)] == [0, 60]

    def test_one_address_cannot_go_through_all_names(self) -> None:
        logins = self.make([SECOND])
        assert [logins.take(f"user_{n}", b"a") for n in range(21)] == [0] * 20 + [60]
        assert logins.take("user_0", b"b") == 0

    def test_a_name_that_waits_does_not_use_up_its_address(self) -> None:
        logins = self.make([SECOND])
        for _ in range(50):
            logins.take("ada", b"a")
        assert [logins.take(f"user_{n}", b"a") for n in range(16)] == [0] * 15 + [60]
