"""``passerelle backup`` and ``restore``: the commands of the how-to page, options, output, exit codes."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from passerelle.backup.storage import FolderStorage
from passerelle.cli.main import main
from passerelle.security.credentials.api_keys import KeyStore
from passerelle.supervisor.admin import Admin
from passerelle.system import ports
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.supervisor.test_admin import Subject

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/back-up.md"
CONFIG = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command in a folder with the configuration of the page, its keys and its database."""
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(f"admin: off\n{CONFIG}")
    Path("var").mkdir()
    with closing(KeyStore("var/keys.db")) as store:
        store.create("app", (), 1)
    with closing(sqlite3.connect("var/books.db")) as db:
        db.execute("CREATE TABLE books (title TEXT)")
        db.executemany("INSERT INTO books VALUES (?)", [(f"book {n}",) for n in range(250)])
        db.commit()

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def made(run: Run, *options: str) -> str:
    """Make a backup and return its name."""
    code, out, err = run("backup", "--json", *options)
    assert code == 0, err
    return str(json.loads(out)["name"])


def books() -> int:
    with closing(sqlite3.connect("var/books.db")) as db:
        return int(db.execute("SELECT count(*) FROM books").fetchone()[0])


def test_every_command_of_the_page_works(run: Run) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    commands = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 9
    name = ""
    for command in commands:
        words = [re.sub(r"^gateway-\d+T\d+Z\.tar\.gz$", name, word) for word in shlex.split(command)]
        if words[0] == "grep":
            subprocess.run(command, shell=True, check=True)
            continue
        if "--key-file" in words and words[1] == "backup" and words[2] != "verify":
            Path("backups", name).unlink()  # of the same second
        assert words.pop(0) == "passerelle"
        code, out, err = run(*words)
        assert (code, err) == (0, ""), command
        if wrote := re.search(r"^wrote (\S+) \(.*\), verified$", out, re.MULTILINE):
            name = wrote[1]
    # The first table and the last line are those of the page.
    example = page.partition("$ passerelle backup\n")[2].partition("```")[0]
    assert re.sub(r"\d", "0", out.splitlines()[0]) == re.sub(r"\d", "0", example.splitlines()[0])
    assert name.endswith(".age") and out.splitlines()[-1] == f"{name}: verified"


def test_a_backup_is_described(run: Run) -> None:
    code, out, err = run("backup", "gateway.yaml", "--to", "elsewhere", "--json")
    found = json.loads(out)
    assert (code, err, found["verified"], found["deleted"]) == (0, "", True, [])
    assert [(each["name"], each["engine"], each["rows"]) for each in found["databases"]] == [
        ("keys", "sqlite", 1),
        ("books", "sqlite", 250),
    ]
    assert os.listdir("elsewhere") == [found["name"]]
    code, out, _ = run("backup", "list", "--to", "elsewhere", "--json")
    assert [(each["name"], each["size"], each["encrypted"]) for each in json.loads(out)] == [
        (found["name"], os.path.getsize(f"elsewhere/{found['name']}"), False)
    ]
    for place in (f"elsewhere/{found['name']}", os.path.abspath(f"elsewhere/{found['name']}")):
        code, out, _ = run("backup", "verify", place, "--json")
        assert code == 0 and json.loads(out)["verified"] is True


def test_the_rule_deletes_only_what_this_configuration_has_made(run: Run) -> None:
    Path("backups").mkdir()
    old = [f"gateway-202601{day:02}T030000Z.tar.gz" for day in range(1, 29)]
    others = ["other-20260101T030000Z.tar.gz", "gateway.sql", "gateway-20261399T030000Z.tar.gz"]
    for name in [*old, *others]:
        Path("backups", name).touch()
    # Nothing is deleted by a backup that was not verified.
    made(run, "--no-verify", "--keep", "daily=1")
    assert set(old) < set(os.listdir("backups"))
    time.sleep(1.1)
    code, out, _ = run("backup", "--keep", "daily=3,monthly=2")
    assert code == 0 and out.count("deleted gateway-2026") == len(old) + 1 - 2
    left = set(os.listdir("backups"))
    assert set(others) < left and {name for name in old if name in left} == set(old[-2:])


def test_restore_asks_for_consent_and_keeps_the_former_content(run: Run) -> None:
    name = made(run)
    with closing(sqlite3.connect("var/books.db")) as db:
        db.execute("DELETE FROM books")
        db.commit()
    code, out, err = run("restore", name)
    assert (code, out) == (1, "") and "--yes replaces them" in err and "books (var/books.db)" in err
    assert books() == 0
    code, out, _ = run("restore", name, "--only", "books", "--yes", "--json")
    (restored,) = json.loads(out)
    assert code == 0 and (restored["name"], restored["place"]) == ("books", "var/books.db") and books() == 250
    with closing(sqlite3.connect(restored["kept"])) as db:
        assert db.execute("SELECT count(*) FROM books").fetchone() == (0,)
    os.unlink("var/books.db")
    code, out, _ = run("restore", f"backups/{name}", "--only", "books")
    assert code == 0 and "books: restored 250 rows to var/books.db" in out and books() == 250


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["backup", "--keep", "daily=0"], 2, "which keeps nothing"),
        (["backup", "--keep", "hourly=3"], 2, "allowed is a rule such as daily=7"),
        (["backup", "--to", "ftp://h/x"], 2, "--to: found 'ftp://h/x'; allowed is a folder, or s3://bucket/prefix"),
        (["backup", "--key-file", "missing"], 1, "the key file missing cannot be read: no such file or directory"),
        (["backup", "--to", "gateway.yaml"], 1, "cannot write to gateway.yaml: file exists"),
        (["backup", "verify"], 1, "there is no backup named gateway-…"),
        (["backup", "verify", "missing.tar.gz"], 1, "there is no backup backups/missing.tar.gz"),
        (["backup", "verify", "gateway.yaml"], 1, "gateway.yaml is not a backup of passerelle"),
        (["backup", "missing.yaml"], 2, "cannot read missing.yaml"),
        (["restore", "x", "--only", "book"], 2, "--only: found 'book'; allowed: keys, books"),
        (["restore", "x", "--yes", "--to-scratch"], 2, "--yes has no effect with --to-scratch"),
        (["backup", "key", "gateway.yaml"], 1, "cannot write gateway.yaml: file exists"),
    ],
)
def test_what_is_wrong_is_reported_on_one_line(run: Run, arguments: list[str], code: int, reason: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "") and reason in err and err.count("\n") == 1, err


def test_a_configuration_without_databases_or_target(run: Run) -> None:
    Path("gateway.yaml").write_text(
        "services: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: u}]\n"
    )
    assert "there is nothing to back up" in run("backup", "--to", "x")[2]
    assert "there is no target" in run("backup", "list")[2]
    Path("gateway.yaml").write_text(CONFIG.replace("books: var/books.db", "books: var/gone.db"))
    code, _, err = run("backup")
    assert code == 1 and "books: var/gone.db does not exist" in err and not os.path.exists("var/gone.db")


def test_without_its_redis_a_backup_fails(run: Run) -> None:
    redis = "redis: redis://:s3cret@127.0.0.1:1/0\n" + CONFIG.replace("store: var/keys.db", "store: redis")
    Path("gateway.yaml").write_text(redis)
    code, out, err = run("backup")
    assert (code, out) == (1, "") and err.startswith("failed: keys: redis 127.0.0.1:1: ") and "s3cret" not in err


@needs("redis-server")
def test_keys_in_redis_are_backed_up_and_restored(run: Run) -> None:
    with RedisServer() as server:
        redis = f"redis: {server.url}\n" + CONFIG.replace("store: var/keys.db", "store: redis")
        Path("gateway.yaml").write_text(redis)
        assert run("keys", "create", "--owner", "app")[0] == 0
        code, out, _ = run("backup", "--json")
        found = json.loads(out)
        first = found["databases"][0]
        assert code == 0 and (first["engine"], first["rows"]) == ("redis", 1)
        listed = run("keys", "list", "--json")[1]
        assert run("keys", "create", "--owner", "other")[0] == 0
        code, out, _ = run("restore", found["name"], "--only", "keys", "--yes")
        assert code == 0 and out.startswith("keys: restored 1 rows to redis 127.0.0.1:")
        assert "keys: the former content is in redis 127.0.0.1:" in out and "for 7 days" in out
        assert run("keys", "list", "--json")[1] == listed


@contextmanager
def running_admin(subject: Subject) -> Iterator[int]:
    """Serve an admin port in a thread, because commands have the main one; yield its port."""
    (sock,) = ports.reserve("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    admin = Admin(sock, subject)
    loop.run_until_complete(admin.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(admin.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_running_gateway_has_the_outcome_as_an_event(run: Run) -> None:
    subject = Subject()
    with running_admin(subject) as port:
        Path("gateway.yaml").write_text(f"admin: 127.0.0.1:{port}\n{CONFIG}")
        name = made(run)
        Path("var/books.db").unlink()
        assert run("backup")[0] == 1
        done, failed = subject.events.since()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with closing(connection):
            for query, status in (("outcome=lost&text=x", 400), ("outcome=done", 400), ("", 400)):
                connection.request("POST", f"/backup?{query}", headers={"Passerelle-Admin": "1"})
                response = connection.getresponse()
                assert (response.status, b"allowed are outcome=done" in response.read()) == (status, True)
    assert (done.kind, failed.kind) == ("backup_done", "backup_failed")
    assert done.text.startswith(f"{name} (") and done.text.endswith(") of keys, books was verified")
    assert failed.text == "books: var/books.db does not exist"
    assert len(subject.events.since()) == 2


def test_a_verification_that_fails_leaves_no_archive(run: Run) -> None:
    """The page of a table is overwritten, as by a bad disk."""
    with closing(sqlite3.connect("var/books.db")) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'books'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with open("var/books.db", "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 100)
    code, out, err = run("backup")
    assert (code, out) == (1, "") and err.startswith("failed: books: ") and err.count("\n") == 1
    assert os.listdir("backups") == []


def test_two_backups_to_one_folder_exclude_each_other(run: Run) -> None:
    with FolderStorage(Path("backups")).locked():
        code, _, err = run("backup")
    assert code == 1 and err == "failed: another backup to backups is running\n"
    made(run)


def test_a_stopped_backup_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with closing(sqlite3.connect("var/books.db")) as db:
        db.execute("INSERT INTO books SELECT hex(randomblob(1000)) FROM books a, books b, books c LIMIT 5000")
        db.commit()
    Path("tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "passerelle", "backup"], env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    )
    until = time.monotonic() + 20
    while not list(Path("tmp").glob("*/books.db")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert [*Path("backups").iterdir(), *Path("tmp").rglob("*")] == []
    # What a killed run has left is removed by the next one.
    Path("backups", ".gateway-20260101T030000Z.tar.gz.part").touch()
    made(run)
    assert len(os.listdir("backups")) == 1
