"""Files: which one a path stands for, conditions, ranges, codings, and large files sent to all kinds of clients."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from passerelle.actions import file_body, static
from passerelle.caching.dates import format_date
from tests.export.serving import deployment_of
from tests.export.serving import serving as serving_nginx
from tests.requirements import needs
from tests.support.client import Client, head
from tests.support.gateways import Rig, Running, settle
from tests.support.secure import Authority, SecureClient
from tests.support.wire import Response, wait_until

LARGE = 3 * 1024 * 1024 + 17
CONTENT = random.Random(7).randbytes(LARGE)
TEXT = b"All work and no play. " * 20_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "public"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "assets").mkdir()
    for name, content in {
        "index.html": b"<h1>start</h1>",
        "about.html": b"about",
        "docs/index.html": b"docs",
        "docs/deep/home.htm": b"home",
        "assets/app.js": b"let a = 1;\n" * 500,
        "empty.txt": b"",
        "a b\u00e9.txt": b"odd",
        "noending": b"\x00\x01",
        "large.bin": CONTENT,
        "large.txt": TEXT,
    }.items():
        (root / name).write_bytes(content)
    return root


def serving(rig: Rig, folder: Path, route: dict[str, Any] | None = None, **settings: Any) -> Running:
    """Start a gateway that serves ``folder`` at ``/``."""
    return rig.gateway(
        {}, [{"path": "/{rest*}", "static": {"folder": str(folder), **settings}, **(route or {})}], access_log="off"
    )


def get(client: Client, path: str, *fields: tuple[str, str], method: str = "GET") -> Response:
    return client.request(method, path, *fields)


# ---- which file


def test_files_indexes_and_folders(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder, index=["index.html", "home.htm"]))
    for path, body, kind in (
        ("/", b"<h1>start</h1>", b"text/html; charset=utf-8"),
        ("/about.html", b"about", b"text/html; charset=utf-8"),
        ("/docs/", b"docs", b"text/html; charset=utf-8"),
        ("/docs/deep/", b"home", b"text/html; charset=utf-8"),
        ("/assets/app.js", b"let a = 1;\n" * 500, b"text/javascript; charset=utf-8"),
        ("/empty.txt", b"", b"text/plain; charset=utf-8"),
        ("/a%20b%C3%A9.txt", b"odd", b"text/plain; charset=utf-8"),
        ("/noending", b"\x00\x01", b"application/octet-stream"),
        ("/large.bin", CONTENT, b"application/octet-stream"),
    ):
        for _ in range(2):  # from the disk, then from memory
            response = get(client, path)
            assert (response.status, response.body, response.get("content-type")) == (200, body, kind), path
            assert response.get("accept-ranges") == b"bytes"
        without = get(client, path, method="HEAD")
        assert without.fields[1:] != [] and without.body == b""
        dated = {"date"}
        assert [f for f in without.fields if f[0].lower().decode() not in dated] == [
            f for f in response.fields if f[0].lower().decode() not in dated
        ]
    for path, location in (("/docs", b"/docs/"), ("/docs/deep?a=1", b"/docs/deep/?a=1")):
        response = get(client, path)
        assert (response.status, response.get("location")) == (301, location)
    for path in ("/assets", "/assets/", "/nothing", "/docs/nothing", "/about", "/about.html/"):
        response = get(client, path)
        assert (response.status, response.get("content-type")) == (404, b"application/problem+json"), path
    refused = get(client, "/about.html", method="DELETE")
    assert (refused.status, refused.get("allow")) == (405, b"GET, HEAD")


def test_further_names_and_the_page_for_all_other_paths(rig: Rig, folder: Path) -> None:
    settings = {"try_files": ["{path}", "{path}.html", "{path}/index.html"], "fallback": "/index.html"}
    client = rig.connect(serving(rig, folder, **settings))
    start = b"<h1>start</h1>"
    for path, body in (("/about", b"about"), ("/docs", b"docs"), ("/", start), ("/user/5", start), ("/a/b/", start)):
        response = get(client, path)
        assert (response.status, response.body) == (200, body), path
    for path in ("/user/john.doe", "/v1.2"):
        assert get(client, path).body == start, path
    for path in ("/missing.js", "/assets/old.css", "/favicon.ico", "/.env", "/a/.git/x"):
        assert get(client, path).status == 404, path
    (folder / "user").mkdir()
    (folder / "user" / "5.html").write_bytes(b"five")
    assert get(client, "/user/5").body == b"five"


def test_a_literal_path_and_a_rewrite(rig: Rig, folder: Path) -> None:
    routes = [
        {"path": "/about.html", "static": str(folder)},
        {"path": "/v1/app.js", "static": str(folder), "rewrite": "/assets/app.js"},
        {"path": "/{page}", "static": str(folder), "rewrite": "/{page}.html"},
        {"path": "/static/{kind}/{rest*}", "static": str(folder / "assets")},
        {"path": "/start", "static": str(folder), "rewrite": "/"},
    ]
    client = rig.connect(rig.gateway({}, routes))
    assert get(client, "/about.html").body == get(client, "/about").body == b"about"
    assert get(client, "/v1/app.js").body == get(client, "/static/js/app.js").body == b"let a = 1;\n" * 500
    assert get(client, "/start").body == b"<h1>start</h1>"
    assert get(client, "/nothing").status == 404


def test_a_changed_file_is_served_at_once(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder))
    first = get(client, "/about.html")
    (folder / "about.html").write_bytes(b"other")  # of the same length
    second = get(client, "/about.html", ("If-None-Match", (first.get("etag") or b"").decode()))
    assert (second.status, second.body) == (200, b"other")
    new = folder / "new"
    new.write_bytes(b"renamed")
    os.replace(new, folder / "about.html")
    assert get(client, "/about.html").body == b"renamed"
    (folder / "about.html").unlink()
    assert get(client, "/about.html").status == 404
    (folder / "about.html").symlink_to(folder / "index.html")
    assert get(client, "/about.html").status == 404


def test_equal_files_have_equal_tags_on_all_machines(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder))
    (folder / "copy.html").write_bytes(b"about")
    assert get(client, "/copy.html").get("etag") == get(client, "/about.html").get("etag")
    os.utime(folder / "copy.html", (1, 1))
    response = get(client, "/copy.html")
    assert response.get("etag") == get(client, "/about.html").get("etag")
    assert response.get("last-modified") is None  # the time of an archive, not of a modification


# ---- conditions and ranges


def test_conditions(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder))
    for path in ("/about.html", "/large.bin"):
        plain = get(client, path)
        etag = (plain.get("etag") or b"").decode()
        assert etag.startswith('"')
        modified = (plain.get("last-modified") or b"").decode()
        seconds = int((folder / path[1:]).stat().st_mtime)
        assert modified.encode() == format_date(seconds)
        earlier, later = format_date(seconds - 1).decode(), format_date(seconds + 1).decode()
        for field, value, status in (
            ("If-None-Match", etag, 304),
            ("If-None-Match", f'"x", W/{etag}', 304),
            ("If-None-Match", "*", 304),
            ("If-None-Match", '"x"', 200),
            ("If-Modified-Since", modified, 304),
            ("If-Modified-Since", later, 304),
            ("If-Modified-Since", earlier, 200),
            ("If-Modified-Since", "yesterday", 200),
            ("If-Match", etag, 200),
            ("If-Match", f'"x", {etag}', 200),
            ("If-Match", "*", 200),
            ("If-Match", f"W/{etag}", 412),
            ("If-Match", '"x"', 412),
            ("If-Unmodified-Since", modified, 200),
            ("If-Unmodified-Since", earlier, 412),
            ("If-Unmodified-Since", "never", 200),
        ):
            for method in ("GET", "HEAD"):
                response = get(client, path, (field, value), method=method)
                assert response.status == status, (path, method, field, value)
                assert response.body == (plain.body if status == 200 and method == "GET" else b"")
                if status == 304:
                    assert (response.get("etag") or b"").decode() == etag
                    assert response.get("content-type") is response.get("content-length") is None
        both = get(client, path, ("If-None-Match", '"x"'), ("If-Modified-Since", later))
        assert both.status == 200
        assert get(client, path, ("If-Match", '"x"'), ("If-None-Match", etag)).status == 412


def test_ranges(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder))
    for path, content in (("/assets/app.js", b"let a = 1;\n" * 500), ("/large.bin", CONTENT)):
        size = len(content)
        for value, status, first, end in (
            ("bytes=0-0", 206, 0, 1),
            ("bytes=10-19", 206, 10, 20),
            (f"bytes={size - 5}-", 206, size - 5, size),
            (f"bytes=100-{size * 2}", 206, 100, size),
            ("bytes=-7", 206, size - 7, size),
            (f"bytes=-{size * 2}", 206, 0, size),
            (f"bytes={size}-", 416, 0, 0),
            ("bytes=-0", 416, 0, 0),
            ("bytes=0-1,5-6", 200, 0, size),
            ("bytes=5-4", 200, 0, size),
            ("lines=0-1", 200, 0, size),
            ("bytes=" + "9" * 40 + "-", 200, 0, size),
            ("bytes=" + ",".join(["0-"] * 500), 200, 0, size),
        ):
            response = get(client, path, ("Range", value))
            assert (response.status, response.body) == (status, content[first:end]), (path, value)
            shown = {206: b"bytes %d-%d/%d" % (first, end - 1, size), 416: b"bytes */%d" % size, 200: None}
            assert response.get("content-range") == shown[status]
            assert get(client, path, ("Range", value), method="HEAD").status == 200
        etag = (get(client, path).get("etag") or b"").decode()
        for validator, status in ((etag, 206), ('"x"', 200), (f"W/{etag}", 200), (format_date(1).decode(), 200)):
            response = get(client, path, ("Range", "bytes=3-5"), ("If-Range", validator))
            assert response.status == status, validator
        assert get(client, path, ("Range", "bytes=3-5"), ("If-None-Match", etag)).status == 304


# ---- codings


def test_precompressed_siblings(rig: Rig, folder: Path) -> None:
    script = folder / "assets" / "app.js"
    (folder / "assets" / "app.js.gz").write_bytes(gzip.compress(script.read_bytes()))
    (folder / "assets" / "app.js.br").write_bytes(b"brotli")
    (folder / "large.txt.gz").write_bytes(gzip.compress(random.Random(1).randbytes(200_000)))
    client = rig.connect(serving(rig, folder, precompressed=["br", "gzip"]))
    plain = get(client, "/assets/app.js")
    assert (plain.body, plain.get("vary")) == (script.read_bytes(), b"Accept-Encoding")
    tags = {plain.get("etag")}
    for accepted, coding in (("gzip", b"gzip"), ("br, gzip", b"br"), ("gzip, br;q=0.5", b"gzip"), ("*", b"br")):
        for _ in range(2):
            response = get(client, "/assets/app.js", ("Accept-Encoding", accepted))
            assert response.get("content-encoding") == coding, accepted
            assert response.get("content-type") == b"text/javascript; charset=utf-8"
        tags.add(response.get("etag"))
    assert len(tags) == 3
    for accepted in ("identity", "deflate", "br;q=0, gzip;q=0"):
        assert get(client, "/assets/app.js", ("Accept-Encoding", accepted)).get("content-encoding") is None
    part = get(client, "/assets/app.js", ("Accept-Encoding", "br"), ("Range", "bytes=1-2"))
    assert (part.status, part.body) == (206, b"ro")
    streamed = get(client, "/large.txt", ("Accept-Encoding", "gzip"))
    assert streamed.get("content-encoding") == b"gzip" and len(zlib.decompress(streamed.body, 31)) == 200_000
    assert get(client, "/about.html", ("Accept-Encoding", "br")).body == b"about"
    # A sibling that is older than the file is of another version.
    os.utime(folder / "assets" / "app.js.br", (1_000_000_000, 1_000_000_000))
    assert get(client, "/assets/app.js", ("Accept-Encoding", "br")).get("content-encoding") is None
    script.unlink()
    assert get(client, "/assets/app.js", ("Accept-Encoding", "gzip")).status == 404


def test_compression_at_once(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder, {"compress": ["gzip"]}))
    for path in ("/assets/app.js", "/large.txt"):
        content = (folder / path[1:]).read_bytes()
        plain = get(client, path)
        assert plain.body == content
        coded = get(client, path, ("Accept-Encoding", "gzip"))
        assert (coded.get("content-encoding"), coded.get("vary")) == (b"gzip", b"Accept-Encoding")
        assert zlib.decompress(coded.body, 31) == content
        weak = (coded.get("etag") or b"").decode()
        assert weak == f"W/{(plain.get('etag') or b'').decode()}"
        assert get(client, path, ("Accept-Encoding", "gzip"), ("If-None-Match", weak)).status == 304
        part = get(client, path, ("Accept-Encoding", "gzip"), ("Range", "bytes=5-9"))
        assert (part.status, part.body, part.get("content-encoding")) == (206, content[5:10], None)
        assert get(client, path, ("Accept-Encoding", "gzip"), method="HEAD").status == 200
    assert get(client, "/large.bin", ("Accept-Encoding", "gzip")).body == CONTENT


# ---- clients and files that misbehave


def open_files(folder: Path) -> int:
    """Return how many descriptors of this process are files below ``folder``."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{folder}/")
        except OSError:
            continue
    return found


def test_large_files_over_one_connection_and_pipelined(rig: Rig, folder: Path) -> None:
    client = rig.connect(serving(rig, folder))
    client.send((head("GET", "/large.bin") + head("GET", "/about.html")) * 3)
    for _ in range(3):
        assert client.read_response("GET").body == CONTENT
        assert client.read_response("GET").body == b"about"
    client.send(b"GET /large.bin HTTP/1.0\r\n\r\n")
    old = client.read_response("GET")
    assert old.body == CONTENT and old.get("connection") == b"close"
    wait_until(lambda: open_files(folder) == 0, "all files are closed")


def test_large_files_over_tls(rig: Rig, folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway", "localhost")
    routes = [{"path": "/{rest*}", "static": str(folder)}]
    gateway = rig.gateway({}, routes, tls={"certificate": str(certificate), "key": str(key)})
    with SecureClient(gateway.port, authority.client_context()) as client:
        for _ in range(2):
            assert client.request("GET", "/large.bin").body == CONTENT
        assert client.request("GET", "/large.bin", ("Range", "bytes=-9")).body == CONTENT[-9:]


def test_a_client_that_reads_slowly_takes_no_memory_and_delays_no_other(rig: Rig, folder: Path) -> None:
    with (folder / "huge").open("wb") as huge:
        huge.truncate(1 << 40)  # a file with a hole
    gateway = serving(rig, folder)
    slow = rig.connect(gateway, receive_buffer=4096)
    slow.send(head("GET", "/huge"))
    wait_until(lambda: open_files(folder) == 1, "the file is being sent")
    other = rig.connect(gateway)
    assert get(other, "/large.bin").body == CONTENT
    assert gateway.snapshot()["resident_bytes"] < 1 << 30
    slow.close()
    settle(gateway)
    wait_until(lambda: open_files(folder) == 0, "the file is closed after its client has gone")
    codes = gateway.snapshot()["routes"]["/{rest*}"]["failures"]
    assert codes == {"client_gone": 1}


def test_the_end_of_a_huge_file(rig: Rig, folder: Path) -> None:
    with (folder / "huge").open("wb") as huge:
        huge.truncate(1 << 40)
        huge.seek((1 << 40) - 3)
        huge.write(b"end")
    client = rig.connect(serving(rig, folder))
    response = get(client, "/huge", ("Range", "bytes=-3"))
    assert (response.status, response.body) == (206, b"end")
    assert response.get("content-range") == b"bytes %d-%d/%d" % ((1 << 40) - 3, (1 << 40) - 1, 1 << 40)
    assert get(client, "/huge", method="HEAD").get("content-length") == b"%d" % (1 << 40)


@pytest.mark.parametrize("change", ["shrinks", "changes", "is replaced"])
def test_a_file_that_changes_while_it_is_sent(rig: Rig, folder: Path, change: str) -> None:
    size = 16 * 1024 * 1024
    with (folder / "huge").open("wb") as huge:
        huge.truncate(size)
    gateway = serving(rig, folder)
    client = rig.connect(gateway, receive_buffer=4096)
    client.send(head("GET", "/huge"))
    client.until(b"\r\n\r\n")
    if change == "shrinks":
        os.truncate(folder / "huge", 1000)
    elif change == "changes":
        with (folder / "huge").open("r+b") as huge:
            huge.write(b"x")
    else:
        (folder / "new").write_bytes(b"new")
        os.replace(folder / "new", folder / "huge")
    if change == "is replaced":
        assert not any(client.exactly(size))
        assert client.request("GET", "/huge").body == b"new"
    else:
        assert len(client.rest()) < size
        settle(gateway)
        assert gateway.snapshot()["routes"]["/{rest*}"]["failures"] == {"internal": 1}
    wait_until(lambda: open_files(folder) == 0, "the file is closed")


def test_what_is_kept_in_memory_is_bounded(rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MOST_KEPT", 100_000)
    for number in range(40):
        (folder / f"{number}.txt").write_bytes(bytes([number]) * 10_000)
    kept: list[static.Static] = []
    made = static.Static.__init__

    def remember(self: static.Static, *args: Any) -> None:
        kept.append(self)
        made(self, *args)

    monkeypatch.setattr(static.Static, "__init__", remember)
    client = rig.connect(serving(rig, folder))
    for _ in range(2):
        for number in range(40):
            assert get(client, f"/{number}.txt").body == bytes([number]) * 10_000
    (only,) = kept
    assert 0 < only.kept_bytes <= 100_000


def test_files_that_the_kernel_cannot_send_are_read(rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    client = rig.connect(serving(rig, folder))
    assert get(client, "/large.bin").body == CONTENT
    assert get(client, "/large.bin", ("Range", "bytes=5-")).body == CONTENT[5:]


def test_files_that_are_not_in_memory_are_read_by_a_thread(
    rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    load = file_body.FileBody._load

    def recorded(self: file_body.FileBody, place: int, end: int) -> None:
        read.append(place)
        load(self, place, end)

    def absent(*_: object) -> int:
        raise BlockingIOError(11, "not in memory")

    monkeypatch.setattr(file_body, "TURN", 1024 * 1024)
    monkeypatch.setattr(file_body.FileBody, "_load", recorded)
    monkeypatch.setattr(os, "preadv", absent)
    client = rig.connect(serving(rig, folder))
    assert get(client, "/large.bin").body == CONTENT
    assert len(read) >= LARGE // file_body.TURN
    assert get(client, "/about.html").body == b"about"
    wait_until(lambda: open_files(folder) == 0, "all files are closed")


FIELDS = ("content-encoding", "content-length", "content-range", "content-type", "last-modified", "location")


@needs("nginx")
@pytest.mark.parametrize(
    ("path", "settings", "targets"),
    [
        (
            "/{rest*}",
            {"precompressed": ["gzip"]},
            [
                *(
                    "/",
                    "/about.html",
                    "/docs/",
                    "/assets/app.js",
                    "/noending",
                    "/empty.txt",
                    "/a%20b%C3%A9.txt",
                    "/docs",
                ),
                *(
                    "/.env",
                    "/link",
                    "/large.bin",
                    "/large.txt",
                    "/.well-known/x",
                    "/docs/.x",
                    "/a/.well-known/x",
                    "/no",
                ),
            ],
        ),
        (
            "/{rest*}",
            {"fallback": "/index.html", "try_files": ["{path}", "{path}.html"]},
            ["/", "/about", "/user/5", "/a/b/", "/.env", "/link", "/about.html", "/docs/"],
        ),
        ("/files/{rest*}", {}, ["/files/about.html", "/files/docs/", "/files/nothing", "/files/.env", "/files/link"]),
    ],
)
def test_an_exported_nginx_serves_the_same_files(
    rig: Rig, folder: Path, readable: Path, path: str, settings: dict[str, Any], targets: list[str]
) -> None:
    shared = Path(shutil.copytree(folder, readable / "public"))
    (shared / "large.txt.gz").write_bytes(gzip.compress(TEXT))
    (shared / ".env").write_bytes(b"secret")
    (shared / "link").symlink_to("about.html")
    routes = [{"path": path, "static": {"folder": str(shared), **settings}}]
    ours = rig.connect(rig.gateway({}, routes))
    with serving_nginx(deployment_of({}, routes)) as nginx, nginx.connect() as theirs:
        for target in targets:
            for fields in ([], [("Range", "bytes=1-3")], [("Accept-Encoding", "gzip")]):
                one, other = (client.request("GET", target, *fields) for client in (ours, theirs))
                if other.status == 403:  # a link
                    other.start = b"HTTP/1.1 404 Not Found"
                assert one.status == other.status, (target, fields)
                if one.status < 300:
                    assert one.body == other.body, (target, fields)
                    for name in FIELDS:
                        assert one.get(name) == other.get(name), (target, fields, name)
                elif one.status == 301:
                    assert (other.get("location") or b"").endswith(one.get("location") or b"missing")
