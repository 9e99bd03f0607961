"""Who may use the admin port, decision by decision."""

from __future__ import annotations

import pytest

from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.http1.head import RequestHead
from passerelle.supervisor.admin_access import SESSION_SECONDS, AccessRefused, AdminAccess, AdminRequest

TOKEN = "a-token-of-32-visible-characters"
BEARER = f"Bearer {TOKEN}"
READ, CHANGE = ("GET", "/status"), ("POST", "/reload")
OWN_PAGE = {"Host": "localhost:9900", "Origin": "http://localhost:9900", "Sec-Fetch-Site": "same-origin"}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def port(
    listen: str = "127.0.0.1", token: str | None = TOKEN, clock: Clock | None = None, **keys: object
) -> AdminAccess:
    settings = AdminPort.model_validate({"listen": Address(host=listen, port=9900), "token": token, **keys})
    return AdminAccess(settings, listen, 9900, clock or Clock())


def decide(
    access: AdminAccess, what: tuple[str, str] = READ, fields: dict[str, str] | None = None, *, local: bool = True
) -> object:
    """Return how the client was admitted, or the status of the refusal."""
    lines = {"Host": "127.0.0.1:9900" if local else "10.1.2.3:9900", **(fields or {})}
    section = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
    method, path = what
    peer = b"127.0.0.1" if local else b"10.9.9.9"
    head = RequestHead(section, 100)
    try:
        return access.admit(AdminRequest(peer, local, method.encode(), path.encode(), head, method != "GET")).by
    except AccessRefused as refused:
        return refused.status


def test_loopback_without_a_token_is_open_to_programs_of_this_machine() -> None:
    access = port(token=None)
    assert decide(access) == "local"
    assert decide(access, CHANGE, {"Passerelle-Admin": "1"}) == "local"
    assert decide(access, CHANGE) == 403
    assert decide(access, CHANGE, {"Passerelle-Admin": "1", **OWN_PAGE}) == "local"


def test_loopback_with_a_token_needs_it_for_changes_only() -> None:
    access = port()
    assert decide(access) == "local"
    assert decide(access, CHANGE, {"Passerelle-Admin": "1"}) == 401
    assert decide(access, CHANGE, {"Authorization": BEARER}) == "token"
    assert decide(access, CHANGE, {"Authorization": BEARER.replace("Bearer", "bearer")}) == "token"


def test_beyond_loopback_everything_but_the_open_pages_needs_the_token() -> None:
    access = port("0.0.0.0")
    for local in (True, False):
        assert decide(access, local=local) == 401
        assert decide(access, CHANGE, {"Passerelle-Admin": "1"}, local=local) == 401
        assert decide(access, ("GET", "/metrics"), local=local) == 401
        assert decide(access, ("GET", "/healthz"), local=local) == "open"
        assert decide(access, ("GET", "/readyz"), local=local) == "open"
        assert decide(access, fields={"Authorization": BEARER}, local=local) == "token"
        assert decide(access, CHANGE, {"Authorization": BEARER}, local=local) == "token"


def test_pages_are_opened_by_choice() -> None:
    access = port("0.0.0.0", open=["metrics"])
    assert decide(access, ("GET", "/metrics"), local=False) == "open"
    assert decide(access, ("GET", "/healthz"), local=False) == 401


def test_beyond_loopback_without_a_token_nothing_can_be_read() -> None:
    """The configuration refuses this, but a name in it may resolve to another address later."""
    access = port("0.0.0.0", token=None)
    assert decide(access) == 403
    assert decide(access, CHANGE, {"Passerelle-Admin": "1"}) == 403
    assert decide(access, fields={"Authorization": "Bearer "}) == 403
    assert decide(access, fields={"Cookie": "passerelle_admin_9900=1.x.y"}) == 403


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"]
)
def test_wrong_tokens(given: str) -> None:
    assert decide(port("0.0.0.0"), fields={"Authorization": given}) == 401


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("what", [READ, CHANGE, ("GET", "/healthz")])
@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Origin": "http://127.0.0.1:9900.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Host": "evil.example:9900", "Origin": "http://evil.example:9900", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=str,
)
def test_a_page_of_another_origin_reads_and_changes_nothing(
    listen: str, what: tuple[str, str], fields: dict[str, str]
) -> None:
    access = port(listen)
    cookie = access.set_cookie(TOKEN.encode(), secure=False)
    assert cookie is not None
    # As if the browser sent the cookie although SameSite=Strict forbids it.
    sent = {"Passerelle-Admin": "1", "Cookie": cookie.partition(b";")[0].decode(), **fields}
    assert decide(access, what, sent) in (403, 421)


def test_the_user_may_follow_a_link_of_another_page() -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert decide(port(), fields=link) == "local"
    assert decide(port(), CHANGE, {**link, "Passerelle-Admin": "1"}) == 403
    assert decide(port(), fields={**link, "Sec-Fetch-Dest": "iframe"}) == 403


def test_host_names_beyond_loopback_must_be_known_unless_the_token_is_sent() -> None:
    access = port("0.0.0.0", hosts=["Gateway.internal"], open=["metrics"])
    page = ("GET", "/metrics")
    assert decide(access, page, {"Host": "10.1.2.3:9900"}) == "open"
    assert decide(access, page, {"Host": "[fd00::1]:9900"}) == "open"
    assert decide(access, page, {"Host": "gateway.internal:9900"}) == "open"
    assert decide(access, page, {"Host": "gateway.evil:9900"}) == 421
    assert decide(access, page, {"Host": "gateway.evil:9900", "Authorization": BEARER}) == "token"


def test_a_session_reads_and_changes_until_it_expires() -> None:
    clock = Clock()
    access = port("0.0.0.0", clock=clock)
    line = access.set_cookie(TOKEN.encode(), secure=False)
    assert line is not None
    assert line.endswith(b"; HttpOnly; SameSite=Strict") and TOKEN.encode() not in line
    cookie = line.partition(b";")[0].decode()
    assert cookie.startswith("passerelle_admin_9900=")
    assert decide(access, fields={"Cookie": f"other=1; {cookie}"}) == "session"
    assert decide(access, CHANGE, {"Cookie": cookie}) == 403, "a form of another page could send this"
    assert decide(access, CHANGE, {"Cookie": cookie, "Passerelle-Admin": "1"}) == "session"
    clock.now += SESSION_SECONDS - 1
    assert decide(access, fields={"Cookie": cookie}) == "session"
    clock.now += 2
    assert decide(access, fields={"Cookie": cookie}) == 401


def test_forged_sessions() -> None:
    access = port("0.0.0.0")
    line = access.set_cookie(TOKEN.encode(), secure=True)
    assert line is not None and line.endswith(b"; Secure")
    name, _, value = line.partition(b";")[0].decode().partition("=")
    expires, nonce, code = value.split(".")
    of_another = port("0.0.0.0", token="another-token-of-this-length-too").set_cookie(
        b"another-token-of-this-length-too", secure=False
    )
    assert of_another is not None
    for forged in (
        "",
        ".",
        "..",
        f"{int(expires) + 1}.{nonce}.{code}",
        f"{expires}.{nonce}.{code[:-1]}0" if code[-1] != "0" else f"{expires}.{nonce}.{code[:-1]}1",
        f"{expires}.{nonce}.",
        f"x.{nonce}.{code}",
        "9" * 5000,
        of_another.partition(b";")[0].decode().partition("=")[2],
    ):
        assert decide(access, fields={"Cookie": f"{name}={forged}"}) == 401, forged
    assert access.set_cookie(b"wrong", secure=False) is None
    assert port(token=None).set_cookie(b"", secure=False) is None
