"""Login with an identity provider through a running gateway: Authlib is the provider, a client is the browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import redis
from joserfc.jwk import OctKey, RSAKey

from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.identity_provider import CLIENT, SECRET, Provider, User
from tests.support.upstream import answering, ok
from tests.support.wire import Response, wait_until

ORIGIN = "https://shop.example"
PAGE = (("Accept", "text/html,*/*;q=0.8"),)


class Browser:
    """A client that keeps cookies."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.cookies: dict[str, str] = {}

    def request(self, method: str, target: str, *fields: tuple[str, str], body: bytes | None = None) -> Response:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = [*fields, *([("Cookie", cookie)] if cookie else [])]
        answer = self._client.request(method, target, *sent, body=body)
        for line in answer.all("set-cookie"):
            pair, _, attributes = line.decode().partition(";")
            name, _, value = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return answer

    def get(self, target: str, *fields: tuple[str, str]) -> Response:
        return self.request("GET", target, *(fields or PAGE))


def location(answer: Response) -> str:
    assert answer.status in (302, 303), (answer.status, answer.body)
    return (answer.get("location") or b"").decode()


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


class Shop:
    """``/app/{rest*}`` (a login), ``/admin`` (a role), ``/either`` (a login or a key), ``/open``."""

    def __init__(self, rig: Rig, folder: Path, provider: Provider, redis_url: str | None = None, **oidc: Any) -> None:
        self.rig, self.provider = rig, provider
        self.log = folder / "access.log"
        self.upstream = rig.upstream(answering(ok(b"page")))
        self.services: dict[str, Any] = {"u": {"targets": [self.upstream.url]}}
        self.routes: list[dict[str, Any]] = [
            {"path": "/app/{rest*}", "service": "u", "auth": ["oidc"]},
            {"path": "/admin", "service": "u", "auth": ["oidc"], "require": {"roles": ["admin"]}},
            {"path": "/either", "service": "u", "auth": ["oidc", "key"]},
            {"path": "/open", "service": "u"},
            {"path": "/oidc/{step}", "oidc": True},
        ]
        settings = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET, "origin": ORIGIN}
        self.top: dict[str, Any] = {
            "oidc": {**settings, "scopes": ["openid", "profile"], **oidc},
            "sessions": {} if redis_url else {"store": str(folder / "sessions.db")},
            "keys": {"fixed": [{"owner": "program", "key": "0123456789abcdef0123"}]},
            "access_log": str(self.log),
            **({"redis": redis_url} if redis_url else {}),
        }
        self.gateway = rig.gateway(self.services, self.routes, **self.top)

    def browser(self) -> Browser:
        return Browser(self.rig.connect(self.gateway))

    def begin(self, browser: Browser, path: str = "/app/page?a=1") -> tuple[str, dict[str, str]]:
        """Begin a login, and let the user log in at the provider; return the target of the callback."""
        back, given = self.provider.authorize(location(browser.get(path)))
        assert back.startswith(f"{ORIGIN}/oidc/callback?")
        return back.removeprefix(ORIGIN), given

    def login(self, browser: Browser, path: str = "/app/page?a=1") -> Response:
        return browser.get(self.begin(browser, path)[0])

    def callback(self, browser: Browser, given: dict[str, str], **changes: str | None) -> Response:
        changed = {name: value for name, value in {**given, **changes}.items() if value is not None}
        return browser.get(f"/oidc/callback?{urlencode(changed)}")


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    provider = Provider(redirect_uri=f"{ORIGIN}/oidc/callback")
    yield provider
    provider.close()


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.auth_method, running.sends_issuer, running.is_down = "client_secret_basic", False, False
    running.metadata, running.claims, running.algorithm = {}, {}, "RS256"
    running.user = User("ada", {"roles": ["admin", "two words", 5], "sid": "session-1", "nested": {"roles": "a b"}})
    running.refreshable.clear()
    running.refreshes_without_id = False
    running.codes.clear(), running.tokens.clear(), running.exchanges.clear()
    return running


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


@pytest.fixture
def shop(rig: Rig, tmp_path: Path, provider: Provider) -> Shop:
    return Shop(rig, tmp_path, provider)


@pytest.fixture(params=["file", pytest.param("redis", marks=needs("redis-server"))])
def anywhere(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path, provider: Provider) -> Shop:
    if request.param == "file":
        return Shop(rig, tmp_path, provider)
    shared: RedisServer = request.getfixturevalue("server")
    with redis.Redis(port=shared.port) as client:
        client.flushall()
    return Shop(rig, tmp_path, provider, shared.url)


# ---- a login


def test_a_browser_logs_in_and_returns_to_its_page(anywhere: Shop) -> None:
    shop, browser = anywhere, anywhere.browser()
    begun = browser.get("/app/page?a=1")
    asked = query(location(begun))
    assert location(begun).startswith(f"{shop.provider.issuer}/authorize?")
    assert asked["redirect_uri"] == f"{ORIGIN}/oidc/callback" and asked["scope"] == "openid profile"
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert (begun.get("cache-control"), begun.get("referrer-policy")) == (b"no-store", b"no-referrer")
    (cookie,) = begun.all("set-cookie")
    assert cookie.startswith(b"__Host-passerelle-login-")
    assert all(word in cookie for word in (b"; Path=/", b"; Secure", b"; HttpOnly", b"; SameSite=Lax", b"Max-Age=600"))
    ended = shop.login(browser)
    assert location(ended) == "/app/page?a=1"
    (own,) = [line for line in ended.all("set-cookie") if line.startswith(b"__Host-session=")]
    assert all(word in own for word in (b"; Path=/", b"; Secure", b"; HttpOnly", b"; SameSite=Lax"))
    assert browser.get("/app/page?a=1").status == 200
    request = shop.upstream.requests[-1]
    assert request.all("x-consumer") == [b"ada"] and request.all("x-consumer-roles") == [b"admin"]
    assert request.all("x-consumer-auth") == [b"session"]
    assert request.all("cookie") == []  # the cookies of sessions and logins are the gateway's own
    assert browser.get("/admin").status == 200


def test_programs_are_refused_and_not_redirected(shop: Shop) -> None:
    browser = shop.browser()
    for fields in (
        [("Accept", "application/json")],
        [("Accept", "*/*")],
        [*PAGE, ("X-Requested-With", "XMLHttpRequest")],
        [*PAGE, ("Sec-Fetch-Mode", "cors")],
        [*PAGE, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
    ):
        answer = browser.get("/app/x", *fields)
        assert answer.status == 401 and answer.get("location") is None and not answer.all("set-cookie")
    assert browser.request("POST", "/app/x", *PAGE).status == 401
    assert browser.get("/app/x", *PAGE, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")).status == 302
    assert browser.get("/either", ("X-API-Key", "0123456789abcdef0123"), ("Accept", "*/*")).status == 200


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_the_client_is_authenticated_as_the_provider_wants(
    rig: Rig, tmp_path: Path, provider: Provider, method: str
) -> None:
    provider.auth_method = method
    shop = Shop(rig, tmp_path, provider)
    assert location(shop.login(shop.browser())) == "/app/page?a=1"


def test_consumer_and_roles_come_from_other_claims(rig: Rig, tmp_path: Path, provider: Provider) -> None:
    provider.user.claims["email"] = "ada@shop.example"
    shop = Shop(rig, tmp_path, provider, consumer_claim="email", roles_claim="nested.roles")
    browser = shop.browser()
    shop.login(browser)
    assert browser.get("/app/x").status == 200
    request = shop.upstream.requests[-1]
    assert request.all("x-consumer") == [b"ada@shop.example"] and request.all("x-consumer-roles") == [b"a b"]
    assert browser.get("/admin").status == 403


def test_a_login_ends_the_previous_session_of_the_browser(shop: Shop) -> None:
    browser = shop.browser()
    shop.login(browser)
    old = dict(browser.cookies)
    location(shop.login(browser, "/oidc/login?to=/app/y"))
    other = shop.browser()
    other.cookies = old
    assert other.get("/app/x", ("Accept", "*/*")).status == 401
    assert browser.get("/app/x").status == 200


def test_several_logins_of_one_browser_are_bounded(shop: Shop) -> None:
    browser = shop.browser()
    for number in range(40):
        assert browser.get(f"/app/{number}").status == 302
    assert 1 <= len(browser.cookies) <= 8
    assert sum(len(name) + len(value) for name, value in browser.cookies.items()) < 6000
    assert location(shop.login(browser, "/app/last")) == "/app/last"


# ---- what is refused


def refused(answer: Response, status: int = 400) -> None:
    assert answer.status == status, answer.body
    assert not [line for line in answer.all("set-cookie") if b"session" in line.partition(b"=")[0]]


def test_a_callback_without_the_state_of_this_browser_is_refused(shop: Shop) -> None:
    browser = shop.browser()
    target, given = shop.begin(browser)
    refused(shop.browser().get(target))  # another browser: a login that an attacker has begun
    for state in (None, "", "x" * 43, given["state"][:-1], given["state"] + "x"):
        refused(shop.callback(browser, given, state=state))
    refused(browser.get(f"{target}&state={given['state']}"))  # twice
    forged = shop.browser()
    forged.cookies = {name: value[:-4] + "AAAA" for name, value in browser.cookies.items()}
    refused(forged.get(target))
    assert shop.provider.exchanges == []  # no code was sent anywhere
    assert browser.get(target).status == 303


def test_a_login_that_took_too_long_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passerelle.security.oidc.pending_login.LIFETIME", 0)
    browser = shop.browser()
    begun = browser.get("/app/x")
    (cookie,) = begun.all("set-cookie")
    name, _, value = cookie.decode().partition(";")[0].partition("=")
    browser.cookies = {name: value}  # a browser that ignores the lifetime
    refused(browser.get(shop.provider.authorize(location(begun))[0].removeprefix(ORIGIN)))


def test_an_id_token_with_another_nonce_is_refused(shop: Shop) -> None:
    for nonce in ("of another login", None):
        shop.provider.claims = {"nonce": nonce}
        refused(shop.login(shop.browser()), 502)
    assert len(shop.provider.exchanges) == 2


def test_the_provider_refuses_a_code_without_the_verifier_of_its_login(shop: Shop) -> None:
    # Code injection: the code of another login, brought to a callback with its own state and cookie.
    victim, attacker = shop.browser(), shop.browser()
    _, stolen = shop.begin(victim)
    _, own = shop.begin(attacker)
    refused(shop.callback(attacker, own, code=stolen["code"]))
    assert [each["code"] for each in shop.provider.exchanges] == [stolen["code"]]
    assert len(shop.provider.exchanges[0]["code_verifier"]) == 43


def test_a_code_is_used_once(shop: Shop) -> None:
    browser = shop.browser()
    target, _ = shop.begin(browser)
    again = shop.browser()
    again.cookies = dict(browser.cookies)
    assert browser.get(target).status == 303
    refused(browser.get(target))  # the cookie is gone
    refused(again.get(target))  # a copy of the cookie remains, and the provider refuses the code
    assert len(shop.provider.exchanges) == 2


def test_responses_of_another_issuer_are_refused(rig: Rig, tmp_path: Path, provider: Provider) -> None:
    provider.sends_issuer = True
    shop = Shop(rig, tmp_path, provider)
    browser = shop.browser()
    for issuer in ("https://attacker.example", provider.issuer + "/", None):
        _, given = shop.begin(browser)
        refused(shop.callback(browser, given, iss=issuer))
    assert provider.exchanges == []
    assert location(shop.login(browser)) == "/app/page?a=1"


def test_an_issuer_is_checked_although_the_provider_does_not_announce_it(shop: Shop) -> None:
    browser = shop.browser()
    _, given = shop.begin(browser)
    refused(shop.callback(browser, given, iss="https://attacker.example"))
    assert shop.provider.exchanges == []


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://attacker.example"},
        {"aud": "other"},
        {"aud": [CLIENT, "other"]},
        {"aud": [CLIENT, "other"], "azp": "other"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iat": None},
        {"iat": 1_000_000_000},
        {"iat": 10_000_000_000},
        {"nbf": 10_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 2000},
    ],
    ids=str,
)
def test_id_tokens_for_others_and_of_other_times_are_refused(shop: Shop, claims: dict[str, Any]) -> None:
    shop.provider.claims = claims
    refused(shop.login(shop.browser()), 502)


def test_clocks_may_differ_a_little(shop: Shop) -> None:
    now = int(time.time())
    shop.provider.claims = {"iat": now + 5, "nbf": now + 5, "exp": now - 5}
    assert shop.login(shop.browser()).status == 303


def test_id_tokens_that_the_provider_has_not_signed_are_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = shop.provider.sign
    stranger = RSAKey.generate_key(2048, {"kid": shop.provider.keys[-1].kid}, private=True)
    symmetric = OctKey.import_key(SECRET.ljust(32, "x"), {"kid": "x"})
    for change in ({"key": stranger}, {"header": {"alg": "HS256"}, "key": symmetric}):
        monkeypatch.setattr(shop.provider, "sign", lambda claims, change=change: sign(claims, **change))
        refused(shop.login(shop.browser()), 502)
    unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ."
    monkeypatch.setattr(shop.provider, "sign", lambda claims: unsigned)
    refused(shop.login(shop.browser()), 502)


def test_keys_are_rotated(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passerelle.security.jwt.key_set.KeySet._may_fetch", lambda *_: True)
    assert shop.login(shop.browser()).status == 303
    shop.provider.rotate()
    assert shop.login(shop.browser()).status == 303


@pytest.mark.parametrize(
    "to",
    [
        "https://attacker.example",
        "//attacker.example",
        "/\\attacker.example",
        "/%0d%0aLocation:x",
        "\\\\attacker",
        "javascript:alert(1)",
        "app",
        "",
        "/\tx",
        "/" + "x" * 2000,
    ],
)
def test_a_login_never_ends_at_another_host(shop: Shop, to: str) -> None:
    browser = shop.browser()
    assert browser.get(f"/oidc/login?{urlencode({'to': to})}").status == (400 if to != "/%0d%0aLocation:x" else 302)
    for path in (f"/app//{to}", "//attacker.example/app", f"/app/{'y' * 3000}"):
        begun = browser.get(path.replace("\\", "%5C").replace("\t", "%09"))
        if begun.status != 302:
            continue
        back = shop.provider.authorize(location(begun))[0].removeprefix(ORIGIN)
        end = location(browser.get(back))
        assert end.startswith("/") and not end.startswith(("//", "/\\"))
        browser.cookies.clear()


def test_an_error_of_the_provider_is_no_login(shop: Shop) -> None:
    browser = shop.browser()
    _, given = shop.begin(browser)
    answer = shop.callback(
        browser, given, code=None, error="access_denied", error_description="<script>secret</script>"
    )
    refused(answer, 403)
    assert b"script" not in answer.body
    _, given = shop.begin(browser)
    refused(shop.callback(browser, given, code=None))


def test_no_secret_is_logged_or_sent_on(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    browser = shop.browser()
    target, given = shop.begin(browser)
    ended = browser.get(target)
    assert ended.get("referrer-policy") == b"no-referrer"
    secrets = [
        given["code"],
        SECRET,
        *shop.provider.refreshable,
        *shop.provider.tokens,
        shop.provider.exchanges[0]["code_verifier"],
    ]
    assert len(shop.provider.tokens) == 2
    browser.get("/app/x")
    shop.provider.claims = {"nonce": "wrong"}
    refused(shop.login(browser, "/oidc/login"), 502)
    secrets += shop.provider.tokens
    cookies = json.dumps(browser.cookies) + "".join(line.decode() for line in ended.all("set-cookie"))
    sent = b"".join(request.raw for request in shop.upstream.requests).decode("latin-1")
    shop.gateway.stop()
    log = shop.log.read_text()
    assert '"target":"/oidc/callback?code=[redacted]' in log
    for secret in secrets:
        assert secret not in log and secret not in cookies and secret not in sent and secret not in caplog.text
    assert given["state"] not in cookies


# ---- the provider is not there


def test_without_the_provider_sessions_go_on_and_logins_are_503(
    shop: Shop, rig: Rig, tmp_path: Path, provider: Provider
) -> None:
    browser = shop.browser()
    shop.login(browser)
    target, _ = shop.begin(late := shop.browser())
    provider.is_down = True
    assert browser.get("/app/x").status == 200
    answer = late.get(target)
    assert answer.status == 503 and int(answer.get("retry-after") or b"0") >= 1
    (tmp_path / "other").mkdir()
    fresh = Shop(rig, tmp_path / "other", provider)  # a gateway that never had the metadata
    answer = fresh.browser().get("/app/x")
    assert answer.status == 503 and answer.get("retry-after") == b"5"
    assert fresh.browser().get("/app/x", ("Accept", "*/*")).status == 401
    assert fresh.browser().get("/open").status == 200
    rig.log.records.clear()


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://attacker.example"},
        {"token_endpoint": "http://attacker.example/token"},
        {"authorization_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"code_challenge_methods_supported": ["plain"]},
    ],
    ids=str,
)
def test_metadata_that_are_wrong_are_not_used(
    rig: Rig, tmp_path: Path, provider: Provider, wrong: dict[str, Any]
) -> None:
    provider.metadata = wrong
    shop = Shop(rig, tmp_path, provider)
    assert shop.browser().get("/app/x").status == 503
    assert any("no metadata of" in record.getMessage() for record in rig.log.records)


# ---- claims are refreshed


class Clock:
    """The clock of refreshes: due ones need not be waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        monkeypatch.setattr("passerelle.access.oidc.renewal.time.time", lambda: real() + self.ahead)


def refreshing(shop: Shop) -> int:
    return sum(each["grant_type"] == "refresh_token" for each in shop.provider.exchanges)


@pytest.fixture(params=["file", pytest.param("redis", marks=needs("redis-server"))])
def fresh(request: pytest.FixtureRequest, rig: Rig, tmp_path: Path, provider: Provider) -> Shop:
    if request.param == "file":
        return Shop(rig, tmp_path, provider, refresh="60s")
    shared: RedisServer = request.getfixturevalue("server")
    with redis.Redis(port=shared.port) as client:
        client.flushall()
    return Shop(rig, tmp_path, provider, shared.url, refresh="60s")


def test_roles_follow_the_provider(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, browser = Clock(monkeypatch), fresh.browser()
    fresh.login(browser)
    assert browser.get("/admin").status == 200
    fresh.provider.user = User("ada", {"roles": ["customer"]})
    assert (browser.get("/admin").status, refreshing(fresh)) == (200, 0)  # not due
    clock.ahead = 61
    assert (browser.get("/admin").status, refreshing(fresh)) == (403, 1)
    assert browser.get("/app/x").status == 200
    assert fresh.upstream.requests[-1].all("x-consumer-roles") == [b"customer"]
    clock.ahead = 200
    fresh.provider.user = User("ada", {"roles": ["admin"]})
    assert (browser.get("/admin").status, refreshing(fresh)) == (200, 2)  # with the token of the first refresh


def test_one_gateway_alone_refreshes_a_session(
    rig: Rig, tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    shops = [Shop(rig, tmp_path, provider, refresh="60s") for _ in range(3)]  # workers of one machine
    browser = shops[0].browser()
    shops[0].login(browser)
    others = [shop.browser() for shop in shops]
    for other in others:
        other.cookies = dict(browser.cookies)
        assert other.get("/app/x").status == 200
    clock.ahead = 61
    for _ in range(3):
        assert [other.get("/app/x").status for other in others] == [200, 200, 200]
    assert refreshing(shops[0]) == 1


def test_a_user_whom_the_provider_refuses_is_logged_out(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, browser = Clock(monkeypatch), fresh.browser()
    fresh.login(browser)
    fresh.provider.refreshable.clear()
    clock.ahead = 61
    assert browser.get("/app/x", ("Accept", "*/*")).status == 401
    assert browser.get("/app/x").status == 302


@pytest.mark.parametrize("claims", [{"sub": "bob"}, {"iss": "https://attacker.example"}, {"aud": "other"}], ids=str)
def test_a_refreshed_id_token_for_others_ends_the_session(
    rig: Rig, tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any]
) -> None:
    clock, shop = Clock(monkeypatch), Shop(rig, tmp_path, provider, refresh="60s")
    browser = shop.browser()
    shop.login(browser)
    provider.claims = claims
    clock.ahead = 61
    assert browser.get("/app/x", ("Accept", "*/*")).status == 401


def test_a_session_goes_on_while_the_provider_does_not_respond(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, browser = Clock(monkeypatch), fresh.browser()
    fresh.login(browser)
    fresh.provider.is_down = True
    clock.ahead = 61
    for _ in range(3):
        assert browser.get("/app/x").status == 200
    fresh.provider.is_down = False
    fresh.provider.user = User("ada", {"roles": ["customer"]})
    clock.ahead = 200
    assert (browser.get("/admin").status, refreshing(fresh)) == (403, 1)


def test_a_refresh_without_an_id_token_keeps_the_roles(fresh: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, browser = Clock(monkeypatch), fresh.browser()
    fresh.login(browser)
    fresh.provider.refreshes_without_id = True
    for clock.ahead in (61, 200):
        assert browser.get("/admin").status == 200
    assert refreshing(fresh) == 2


def test_a_store_that_is_read_reveals_no_refresh_token(
    rig: Rig, tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, shop = Clock(monkeypatch), Shop(rig, tmp_path, provider, refresh="60s")
    browser = shop.browser()
    shop.login(browser)
    (token,) = provider.refreshable
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("sessions.db*"))
    assert token.encode() not in stored and browser.cookies["__Host-session"].encode() not in stored
    # Another secret of the client cannot unseal it: the session ends, and no token is sent.
    changed = {**shop.top["oidc"], "client_secret": "another"}
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, "oidc": changed})
    wait_until(lambda: shop.gateway.gateway._guards._oidc._metadata is not None, "metadata", 10)
    clock.ahead = 61
    assert browser.get("/app/x", ("Accept", "*/*")).status == 401
    assert refreshing(shop) == 0


# ---- the end of sessions


def token_of(browser: Browser) -> tuple[str, str]:
    return "X-CSRF-Token", browser.cookies["__Host-session-csrf"]


def test_a_logout_ends_the_session_here_and_names_that_of_the_provider(anywhere: Shop) -> None:
    shop, browser = anywhere, anywhere.browser()
    shop.login(browser)
    kept = dict(browser.cookies)
    assert browser.request("POST", "/oidc/logout").status == 403  # a forged one
    answer = browser.request("POST", "/oidc/logout", token_of(browser), ("Accept", "application/json"))
    url = json.loads(answer.body)["logout_url"]
    assert url.startswith(f"{shop.provider.issuer}/end?")
    assert query(url) == {"client_id": CLIENT, "post_logout_redirect_uri": f"{ORIGIN}/"}
    assert browser.cookies == {}
    browser.cookies = kept
    assert browser.get("/app/x", ("Accept", "*/*")).status == 401
    browser.cookies = {}
    assert location(browser.request("POST", "/oidc/logout", *PAGE)) == url


@pytest.mark.parametrize("by", ["sub", "sid"])
def test_the_provider_ends_sessions_over_the_back_channel(anywhere: Shop, by: str) -> None:
    shop, ada, other = anywhere, anywhere.browser(), anywhere.browser()
    shop.login(ada)
    shop.provider.user = User("bob", {"sid": "session-2"})
    shop.login(other)
    shop.provider.user = User("ada", {})
    named = {"sub": "ada"} if by == "sub" else {"sub": None, "sid": "session-1"}
    body = urlencode({"logout_token": shop.provider.logout_token(**named)}).encode()
    form = ("Content-Type", "application/x-www-form-urlencoded")
    answer = shop.browser().request("POST", "/oidc/backchannel", form, body=body)
    assert (answer.status, answer.get("cache-control")) == (200, b"no-store")
    wait_until(lambda: ada.get("/app/x", ("Accept", "*/*")).status == 401, "the session of ada has ended", 10)
    assert other.get("/app/x").status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://attacker.example"},
        {"aud": "other"},
        {"events": None},
        {"events": {"other": {}}},
        {"nonce": "x"},
        {"sub": None},
        {"exp": None},
        {"iat": 1_000_000_000},
    ],
    ids=str,
)
def test_logout_tokens_that_are_wrong_end_nothing(shop: Shop, changes: dict[str, Any]) -> None:
    browser = shop.browser()
    shop.login(browser)
    id_token = shop.provider.tokens[0]
    for token in (shop.provider.logout_token(**changes), id_token, "", "x"):
        body = urlencode({"logout_token": token}).encode()
        assert browser.request("POST", "/oidc/backchannel", body=body).status == 400
    assert browser.get("/app/x").status == 200


def test_the_provider_ends_sessions_over_the_front_channel(shop: Shop) -> None:
    browser = shop.browser()
    shop.login(browser)
    frame = shop.browser()  # browsers send no cookies in a frame of another site
    for wrong in ({"sid": "session-1"}, {"iss": "https://x", "sid": "session-1"}, {"iss": shop.provider.issuer}):
        assert frame.get(f"/oidc/frontchannel?{urlencode(wrong)}").status == 400
    assert browser.get("/app/x").status == 200
    right = {"iss": shop.provider.issuer, "sid": "session-1"}
    assert frame.get(f"/oidc/frontchannel?{urlencode(right)}").status == 200
    wait_until(lambda: browser.get("/app/x", ("Accept", "*/*")).status == 401, "the session has ended", 10)


def test_other_steps_and_methods_do_not_exist(shop: Shop) -> None:
    browser = shop.browser()
    assert browser.get("/oidc/other").status == 404
    assert browser.get("/oidc/logout").status == 404
    assert browser.request("POST", "/oidc/callback").status == 404
    assert browser.request("DELETE", "/oidc/logout").status == 405


# ---- reload


def test_a_reload_keeps_metadata_and_applies_another_client(shop: Shop) -> None:
    browser = shop.browser()
    shop.login(browser)
    before = shop.gateway.gateway._guards._oidc
    shop.gateway.reload(shop.services, shop.routes, **shop.top)
    assert shop.gateway.gateway._guards._oidc is before
    target, _ = shop.begin(late := shop.browser())
    changed = {**shop.top["oidc"], "leeway": "20s"}
    shop.gateway.reload(shop.services, shop.routes, **{**shop.top, "oidc": changed})
    assert shop.gateway.gateway._guards._oidc is not before
    assert browser.get("/app/x").status == 200
    wait_until(lambda: shop.gateway.gateway._guards._oidc._metadata is not None, "metadata", 10)
    assert late.get(target).status == 303  # begun before the reload


def test_logouts_of_the_provider_are_bounded_and_each_channel_has_its_own_places(shop: Shop) -> None:
    handler = next(plan for route, plan in shop.gateway.gateway._plans if route.oidc).handler
    right = urlencode({"iss": shop.provider.issuer, "sid": "session-1"})
    browser = shop.browser()

    def statuses() -> tuple[int, int]:
        front = browser.get(f"/oidc/frontchannel?{right}").status
        body = urlencode({"logout_token": shop.provider.logout_token()}).encode()
        return front, browser.request("POST", "/oidc/backchannel", body=body).status

    assert statuses() == (200, 200)
    handler._front.waiting = 64  # cheap requests without any credential
    assert statuses() == (503, 200)
    handler._front.waiting, handler._back.waiting = 0, 64
    assert statuses() == (200, 503)
    handler._back.waiting = 0
    assert statuses() == (200, 200)
    assert (handler._front.waiting, handler._back.waiting) == (0, 0)
