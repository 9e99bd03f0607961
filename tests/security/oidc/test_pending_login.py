"""Logins in progress: which paths they end at, and what their cookies reveal and accept."""

from __future__ import annotations

import base64
import hashlib

import pytest

from passerelle.security.oidc.metadata import is_secure
from passerelle.security.oidc.pending_login import LONGEST_PATH, SLOTS, LoginCookies, PendingLogin, is_own_path
from tests.security.ratelimit.test_gcra import asked

NOW = 1_800_000_000.0


def cookie_of(cookies: LoginCookies, login: PendingLogin) -> bytes:
    return cookies.set_line(login).partition(b": ")[2].partition(b";")[0]


@pytest.mark.parametrize("path", ["/", "/a?b=c&d=//x", "/%5C", "/a//b", "/a:b@c"])
def test_paths_of_this_host(path: str) -> None:
    assert is_own_path(path) and PendingLogin.begin(path, NOW).path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "//x",
        "/\\x",
        "\\\\x",
        "https://x",
        "/a\\b",
        "/a b",
        "/a\r\nb",
        "/\u00e9",
        "/\t/x",
        "/" * LONGEST_PATH + "a",
    ],
)
def test_what_a_browser_may_take_for_another_host_is_not_kept(path: str) -> None:
    assert not is_own_path(path) and PendingLogin.begin(path, NOW).path == "/"


def test_the_challenge_is_that_of_the_verifier() -> None:
    login = PendingLogin.begin("/", NOW)
    digest = hashlib.sha256(login.verifier.encode()).digest()
    assert login.challenge == base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert len({login.state, login.nonce, login.verifier}) == 3 and len(login.verifier) == 43


def test_a_cookie_is_sealed_bound_to_its_name_and_to_its_secret() -> None:
    cookies = LoginCookies("secret", secure=True)
    login = PendingLogin.begin("/private/path", NOW)
    cookie = cookie_of(cookies, login)
    for part in (login.state, login.nonce, login.verifier, "private"):
        assert part.encode() not in cookie and base64.urlsafe_b64encode(part.encode())[:8] not in cookie

    def found(sent: bytes, state: str = login.state, now: float = NOW, other: LoginCookies = cookies) -> bool:
        return other.find(asked(b"192.0.2.1", (b"cookie", sent)), state, now) == login

    assert found(cookie) and found(b"a=b; " + cookie)
    name, _, value = cookie.partition(b"=")
    assert found(b"%b=x; %b" % (name, cookie))  # another cookie of the name, which the browser sends first
    assert not found(cookie, now=NOW + 601)
    assert not found(cookie, state=PendingLogin.begin("/", NOW).state)
    assert not found(cookie, other=LoginCookies("another", secure=True))
    renamed = cookies.names[(cookies.names.index(name) + 1) % SLOTS]
    assert not found(b"%b=%b" % (renamed, value))
    for broken in (value[:-1] + b"A", value[:20], b"", b"!" * 40):
        assert broken == value or not found(b"%b=%b" % (name, broken))
    assert LoginCookies("secret", secure=False).names[0] == b"passerelle-login-0"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://idp.example/token", True),
        ("http://127.0.0.1:8000/token", True),
        ("http://localhost/token", True),
        ("http://idp.example/token", False),
        ("https://user@idp.example/", False),
        ("https:///token", False),
        ("https://idp.example/#x", False),
        ("http://localhost@idp.example/", False),
        ("file:///etc/passwd", False),
        ("https://[::1", False),
    ],
)
def test_addresses_of_a_provider(url: str, expected: bool) -> None:
    assert is_secure(url) is expected
