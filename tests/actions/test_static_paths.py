"""No path of a request leads out of the folder, to a hidden file, through a link, or to anything but a regular file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.actions.folder import Folder, segments_of
from tests.support.client import Client
from tests.support.gateways import Rig
from tests.support.wire import Closed

SECRET = b"the secret"

# Paths below /files/. Each must be refused, or be a redirect within the folder; none may show the secret.
PATHS = [
    # dot segments
    "..", "../secret", "../../secret", "../../../../../../etc/passwd", "./../secret", "a/../../secret",
    "a/b/../../../secret",
    "/../secret", "//../secret", "..//secret", "../", "a/..", "a/../..",
    # encoded dots and slashes
    "%2e%2e/secret", "%2E%2E/secret", ".%2e/secret", "%2e./secret", "..%2fsecret", "..%2Fsecret", "%2e%2e%2fsecret",
    "%2e%2e%2Fsecret", "a%2f..%2f..%2fsecret", "a/..%2f..%2fsecret", "%2fetc%2fpasswd", "a%2Fb.txt",
    # twice encoded, overlong, other alphabets
    "%252e%252e/secret", "%252e%252e%252fsecret", "..%252fsecret", "%c0%ae%c0%ae/secret",
    "%C0%AE%C0%AE%C0%AFsecret",
    "%e0%80%ae%e0%80%ae/secret", "%ef%bc%8e%ef%bc%8e/secret", "%uff0e%uff0e/secret", "..%c0%afsecret",
    "..%ef%bc%8fsecret",
    # backslashes, parameters, control characters
    "..\\secret", "..%5csecret", "..%5Csecret", "a%5c..%5c..%5csecret", "..;/secret", "..;a=b/secret",
    "..%3b/secret",
    "%00", "a.txt%00.html", "..%00/secret", "%0a../secret", "a.txt%0d%0a", "%7f", "a.txt%09",
    # what a shell, a URL or Windows would resolve
    "~/secret", "~root/.profile", "$HOME/secret", "file:///etc/passwd", "C:/secret", "C:%5Csecret",
    "a.txt::$DATA", "con",
    "a.txt.", "a.txt%20", "A.TXT", "...", "..../secret", ".../secret", "*", "a.tx?", "[a].txt",
    # hidden files
    ".hidden", ".env", ".git/config", "a/.hidden", "%2ehidden", "%2Eenv", ".well-known", "a/.well-known/x", ".",
    ".htpasswd.html",
    # links: to a file, to a folder, in a chain, to itself, absolute, within the folder, in the middle
    "link", "link.html", "linked/secret", "linked/", "linked", "chain", "loop", "absolute", "inner",
    "innerdir/b.txt",
    "a/up/secret", "a/up/../secret", "dangling",
    # what is no regular file
    "fifo", "socket", "a", "a/", "empty/", "null", "dir.html/",
    # names that are too long, too many, or not readable
    "x" * 256, "x/" * 300, "a/" * 40 + "x", "%41" * 500, "locked", "shut/inside", "a.txt/", "a.txt/b",
    "a.txt/../../secret",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with links, hidden files and special files, beside a secret."""
    base = tmp_path_factory.mktemp("static")
    (base / "secret").write_bytes(SECRET)
    (base / "outside").mkdir()
    (base / "outside" / "secret").write_bytes(SECRET)
    root = base / "public"
    (root / "a").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "dir.html").mkdir()
    (root / "a.txt").write_bytes(b"a")
    (root / "a" / "b.txt").write_bytes(b"b")
    for name in (".hidden", ".env", ".htpasswd.html", "a/.hidden"):
        (root / name).write_bytes(SECRET)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(SECRET)
    (root / "a" / ".well-known").mkdir()
    (root / "a" / ".well-known" / "x").write_bytes(SECRET)
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_bytes(b"contact")
    for name, target in {
        "link": "../secret",
        "link.html": "../secret",
        "linked": "../outside",
        "chain": "link",
        "loop": "loop",
        "absolute": str(base / "secret"),
        "inner": "a.txt",
        "innerdir": "a",
        "a/up": "../..",
        "dangling": "nothing",
        "null": "/dev/null",
        "index.html": "../secret",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(root)  # the address of a socket is short
    try:
        listener.bind("socket")
    finally:
        os.chdir(before)
    (root / "locked").write_bytes(SECRET)
    (root / "shut").mkdir()
    (root / "shut" / "inside").write_bytes(SECRET)
    if os.geteuid() != 0:
        (root / "locked").chmod(0)
        (root / "shut").chmod(0)
    else:  # root may read both
        (root / "locked").unlink()
        (root / "shut" / "inside").unlink()
    yield root
    listener.close()
    (root / "shut").chmod(0o700)


def routes(folder: Path) -> list[dict[str, object]]:
    return [
        {"path": "/files/{rest*}", "static": str(folder)},
        {"path": "/pages/{rest*}", "static": {"folder": str(folder), "try_files": ["{path}", "{path}.html"]}},
        {"path": "/one/{name}", "static": str(folder), "rewrite": "/{name}"},
        {"path": "/coded/{rest*}", "static": {"folder": str(folder), "precompressed": True}},
    ]


def ask(client: Client, target: str) -> tuple[int, bytes, bytes]:
    """Send a GET; return status, Location and body. A connection that is closed at once is status 0."""
    client.send(f"GET {target} HTTP/1.1\r\nHost: gw\r\nAccept-Encoding: br\r\n\r\n".encode("latin-1"))
    try:
        response = client.read_response("GET")
    except (Closed, OSError):
        return 0, b"", b""
    return response.status, response.get("location") or b"", response.body


def test_there_are_many_paths() -> None:
    assert len(set(PATHS)) == len(PATHS) >= 100


def test_no_path_leaves_the_folder(rig: Rig, folder: Path) -> None:
    gateway = rig.gateway({}, routes(folder))
    for prefix in ("/files/", "/pages/", "/one/", "/coded/"):
        for path in PATHS:
            with gateway.connect() as client:
                status, location, body = ask(client, prefix + path)
            shown = prefix + path
            assert SECRET not in body and b"root:" not in body, shown
            assert status in (0, 301, 400, 404, 414, 431), (shown, status, body)
            if status == 301:
                assert location.startswith(prefix.encode()), shown


def test_what_belongs_to_the_folder_is_served(rig: Rig, folder: Path) -> None:
    client = rig.connect(rig.gateway({}, routes(folder)))
    for path in (
        "/files/a.txt",
        "/files/./a.txt",
        "/files//a.txt",
        "/files/%61.txt",
        "/files/a/../a.txt",
        "/one/a.txt",
    ):
        assert ask(client, path)[::2] == (200, b"a"), path
    assert ask(client, "/files/a/b.txt")[2] == b"b"
    assert ask(client, "/files/.well-known/security.txt")[2] == b"contact"
    assert ask(client, "/files/")[0] == ask(client, "/files")[0] == 404


@pytest.mark.parametrize(
    "path", [b"../x", b"a/../x", b".x", b"a/.x", b"a//b", b"a/%2F", b"%2e", b"a%00", b".well-known"]
)
def test_segments_that_name_no_file_are_refused(path: bytes) -> None:
    assert segments_of(path) is None


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "public" / "a").mkdir(parents=True)
    (tmp_path / "public" / "a" / "f").write_bytes(b"inside")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f").write_bytes(SECRET)
    folder = Folder(os.fsencode(tmp_path / "public"))
    opened = folder.open((b"a", b"f"))
    assert opened is not None
    (tmp_path / "public" / "a").rename(tmp_path / "public" / "b")
    (tmp_path / "public" / "a").symlink_to(tmp_path / "out")
    assert folder.open((b"a", b"f")) is None
    assert os.pread(opened.descriptor, 9, 0) == b"inside"
    os.close(opened.descriptor)
    # The folder itself may be a link: a deployment switches it.
    (tmp_path / "current").symlink_to(tmp_path / "public")
    switched = Folder(os.fsencode(tmp_path / "current")).open((b"b", b"f"))
    assert switched is not None
    os.close(switched.descriptor)
