"""Eleven services of eleven frameworks under one `passerelle up`, each used for what it is chosen for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import socketio
from websockets.sync.client import connect

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, up

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
HERE = Path(__file__).parent
LIMIT = 30.0  # seconds
CLIENT = "203.0.113.7"
FORWARDED = {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}
UPLOAD = b"x" * 1_000_000


class Site:
    """The gateway, behind a proxy at https://shop.example that it trusts."""

    def __init__(self, running: Up) -> None:
        self.running = running
        self.session = requests.Session()
        self.session.headers.update(FORWARDED)
        self.address = f"127.0.0.1:{running.port}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"timeout": LIMIT, "allow_redirects": False, **options}
        return self.session.request(method, f"http://{self.address}{path}", **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def follow(self, response: requests.Response) -> requests.Response:
        """Request the Location of ``response``, as a client of the proxy does."""
        location = response.headers["Location"]
        return self.get(location.removeprefix("https://shop.example"))

    def websocket(self, path: str) -> Any:
        return connect(f"ws://{self.address}{path}", additional_headers=FORWARDED, open_timeout=LIMIT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("frameworks")
    for file in HERE.glob("*_app.py"):
        shutil.copy(file, folder)
    with up(folder, (HERE / "gateway.yaml").read_text(), env={"DJANGO_DATABASE": str(folder / "db")}) as running:
        running.says(r"listening on http://127\.0\.0\.1:(\d+)", 60.0)
        running.listening()
        site = Site(running)
        states = {name: service["instances"][0]["state"] for name, service in running.status()["services"].items()}
        assert states == dict.fromkeys(states, "up"), running.text
        assert len(states) == 11
        yield site
        site.session.close()
        assert running.stop() == 0, running.text
        assert "Traceback" not in running.text


def test_flask_builds_links_redirects_uploads_and_streams(site: Site) -> None:
    links = {"link": "/flask/hello/Ada", "full": "https://shop.example/flask/hello/Ada"}
    assert site.get("/flask/").json() == links
    assert site.follow(site.get("/flask/old")).text == "<p>Hello, Ada!</p>"
    found = site.call("POST", "/flask/upload", files={"the_file": ("a.bin", UPLOAD)}).json()
    assert found == {"name": "a.bin", "octets": len(UPLOAD), "from": CLIENT}
    assert site.get("/flask/count").text.split() == [str(number) for number in range(1000)]


def test_flask_sock_echoes(site: Site) -> None:
    assert site.get("/flask-sock/").text == "Hello"
    with site.websocket("/flask-sock/echo") as one, site.websocket("/flask-sock/echo") as other:
        assert (one.recv(LIMIT), other.recv(LIMIT)) == ("Hello", "Hello")
        for text in ("a", "b" * 100_000):
            for each in (one, other):
                each.send(text)
            assert (one.recv(LIMIT), other.recv(LIMIT)) == (text, text)
        assert site.get("/flask-sock/").text == "Hello"


def test_the_admin_of_django_logs_in_behind_the_prefix(site: Site) -> None:
    assert site.get("/django/about/").json() == {"secure": True, "url": "https://shop.example/django/about/"}
    assert site.get("/django/about").headers["Location"] == "/django/about/"
    refused = site.get("/django/admin/")
    assert refused.headers["Location"] == "/django/admin/login/?next=/django/admin/"
    form = site.follow(refused)
    style = re.search(r'href="(/django/static/admin/css/base\.css)"', form.text)
    assert style is not None, form.text
    assert "--primary" in site.get(style[1]).text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
    assert token is not None
    values = {"username": "ada", "password": "of-a-test", "csrfmiddlewaretoken": token[1], "next": "/django/admin/"}
    headers = {"Origin": "https://shop.example", "Referer": "https://shop.example/django/admin/login/"}
    welcome = site.call("POST", "/django/admin/login/", data=values, headers=headers)
    assert (welcome.status_code, welcome.headers["Location"]) == (302, "/django/admin/")
    assert "Site administration" in site.follow(welcome).text
    assert "/django/admin/auth/user/add/" in site.get("/django/admin/auth/user/").text


def test_fastapi_documents_validates_uploads_and_works_later(site: Site) -> None:
    page = site.get("/fastapi/docs").text
    assert "url: '/fastapi/openapi.json'" in page
    document = site.get("/fastapi/openapi.json").json()
    assert document["servers"] == [{"url": "/fastapi"}]
    assert "/items/{item_id}" in document["paths"]
    assert site.get("/fastapi/items/5?q=x").json() == {"item_id": 5, "q": "x", "started": True}
    assert site.get("/fastapi/items/five").status_code == 422
    made = site.call("POST", "/fastapi/items/", json={"name": "Foo", "price": 42})
    assert (made.status_code, made.json()) == (201, {"name": "Foo", "price": 42.0})
    slash = site.call("POST", "/fastapi/items")
    assert (slash.status_code, slash.headers["Location"]) == (307, "https://shop.example/fastapi/items/")
    found = site.call("POST", "/fastapi/uploadfile/", files={"file": ("a.bin", UPLOAD)}).json()
    assert found == {"filename": "a.bin", "octets": len(UPLOAD)}
    assert site.call("POST", "/fastapi/send-notification/ada@example.com").status_code == 200
    until_now(lambda: site.get("/fastapi/sent").json() == ["ada@example.com"], LIMIT)
    with site.websocket("/fastapi/ws") as client:
        assert client.recv(LIMIT) == f"wss://shop.example/fastapi/ws of {CLIENT}"
        client.send("Hello")
        assert client.recv(LIMIT) == "Message text was: Hello"


def test_starlette_streams_and_works_later(site: Site) -> None:
    expected = {"url": "https://shop.example/starlette/", "for": "https://shop.example/starlette/numbers"}
    assert site.get("/starlette/").json() == {**expected, "client": CLIENT}
    assert site.get("/starlette/numbers").text.split() == [str(number) for number in range(1, 11)]
    until_now(lambda: site.get("/starlette/tasks").json() == ["homepage"], LIMIT)


def test_quart_sends_events_echoes_and_works_later(site: Site) -> None:
    assert site.get("/quart/").json() == {"link": "/quart/sse"}
    events = site.get("/quart/sse")
    assert events.headers["Content-Type"].startswith("text/event-stream")
    assert events.text.count("event: count\n") == 3
    with site.websocket("/quart/ws") as client:
        client.send("Hello")
        assert client.recv(LIMIT) == "echo Hello"
    assert site.call("POST", "/quart/jobs").status_code == 202
    until_now(lambda: site.get("/quart/jobs").json() == ["work"], LIMIT)


def test_litestar_validates_documents_and_sends_events(site: Site) -> None:
    assert site.get("/litestar/books/7").json() == {"book_id": 7}
    made = site.call("POST", "/litestar/books", json={"title": "Notes", "pages": 66})
    assert (made.status_code, made.json()) == (201, {"title": "Notes", "pages": 66})
    refused = site.call("POST", "/litestar/books", json={"title": "Notes", "pages": "many"})
    assert (refused.status_code, refused.json()["extra"][0]["key"]) == (400, "pages")
    assert "/books/{book_id}" in site.get("/litestar/schema/openapi.json").json()["paths"]
    assert site.get("/litestar/events").text.split() == ["data:", "0", "data:", "1", "data:", "2"]


def test_falcon_reads_bodies_in_pieces_and_has_its_errors(site: Site) -> None:
    assert site.get("/falcon/quote").json()["uri"] == "https://shop.example/falcon/quote"
    found = site.call("PUT", "/falcon/quote", data=UPLOAD).json()
    assert (found["octets"], found["remote"]) == (len(UPLOAD), CLIENT)
    conflict = site.call("DELETE", "/falcon/quote")
    assert (conflict.status_code, conflict.json()["title"]) == (409, "It is in use")


def test_bottle_renders_keeps_cookies_and_sends_files(site: Site) -> None:
    assert site.get("/bottle/hello/%3Cb%3E").text == "<b>Hello &lt;b&gt;</b>!"
    logged_in = site.call("POST", "/bottle/login", data={"user": "ada"})
    assert logged_in.headers["Location"] == "https://shop.example/bottle/whoami"
    assert site.follow(logged_in).text == "ada"
    part = site.get("/bottle/static/bottle_app.py", headers={"Range": "bytes=3-8"})
    assert (part.status_code, part.text) == (206, "Bottle")
    assert site.get("/bottle/static/..%2fbottle_app.py").status_code in (400, 403, 404)


def test_pyramid_builds_urls_behind_the_prefix(site: Site) -> None:
    assert site.get("/pyramid/").json() == {"url": "https://shop.example/pyramid/hello/ada", "client": CLIENT}
    assert site.follow(site.get("/pyramid/go")).text == "Hello ada!"
    missing = site.get("/pyramid/nowhere")
    assert (missing.status_code, missing.json()) == (404, {"missing": "/pyramid/nowhere"})


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
def test_socketio_passes_messages_on(site: Site, transports: list[str]) -> None:
    # A browser sends the origin of the page, and the server compares it with the host of the request.
    origin = {"origin": "https://shop.example"}
    with (
        socketio.SimpleClient(websocket_extra_options=origin) as one,
        socketio.SimpleClient(websocket_extra_options=origin) as other,
    ):
        for client in (one, other):
            client.connect(f"http://{site.address}", transports=transports, headers=FORWARDED, wait_timeout=int(LIMIT))
            name, welcome = client.receive(LIMIT)
            assert (name, welcome["from"]) == ("welcome", CLIENT)
            assert client.call("enter", "room", timeout=int(LIMIT)) == "room"
        assert one.call("say", {"room": "room", "text": "Hello"}, timeout=int(LIMIT)) == "sent"
        assert [client.receive(LIMIT) for client in (one, other)] == [["said", "Hello"]] * 2
        assert one.transport == transports[-1]
