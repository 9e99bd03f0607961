"""Backups of real databases: consistent while writes go on, verified, restored; what cannot be restored is refused."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from passerelle.backup import psql
from passerelle.backup.archive import read_archive
from passerelle.backup.databases import Restored
from passerelle.backup.errors import BackupError
from passerelle.backup.postgresql import PostgresDatabase
from passerelle.backup.psql import find
from passerelle.backup.run import make_backup, restore_backup
from passerelle.backup.sqlite import SqliteDatabase
from passerelle.backup.storage import FolderStorage
from passerelle.cli.main import main
from passerelle.security.credentials.api_keys import KeyStore
from tests.backup.conftest import Ledger, postgresql_ledger, sqlite_ledger
from tests.support.gateways import Rig
from tests.support.postgresql import PostgresServer
from tests.support.upstream import answering, ok
from tests.support.wire import wait_until

Clock = Callable[[], datetime]


def backed_up(ledger: Ledger, storage: FolderStorage, clock: Clock) -> str:
    """Make a backup, without verifying it: that is the subject of other tests, and restoring compares as well."""
    return make_backup([ledger.database], storage, "shop", clock(), "test", verify=False).name


def restored_from(
    ledger: Ledger, storage: FolderStorage, name: str, now: datetime, *, replace: bool = False, beside: bool = False
) -> Restored:
    ((_, found),) = restore_backup([ledger.database], storage, name, None, now, replace=replace, beside=beside)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "ledger", ["sqlite", "sqlite without WAL", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
def test_a_backup_under_writes_is_one_moment(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    storage = FolderStorage(tmp_path / "backups")
    ledger.fill(20_000)
    with ledger.written() as writes:
        # Writes precede, accompany and follow the backup.
        wait_until(lambda: writes.done >= 10 or writes.error, "writes before the backup")
        before = writes.last
        made = make_backup([ledger.database], storage, "shop", clock(), "test")
        after = writes.last
        wait_until(lambda: writes.last >= after + 10 or writes.error, "writes after the backup")
    rows = next(iter(made.manifest.parts)).rows - 1
    assert before <= rows <= after and before < after < ledger.number()
    (restored,) = restore_backup([ledger.database], storage, made.name, None, clock(), replace=True, beside=False)
    assert restored[0].rows == rows + 1 and ledger.number() == rows
    print(f"{writes.done / writes.seconds:.0f} transactions a second")


def test_restoring_keeps_the_former_content(tmp_path: Path, clock: Clock) -> None:
    path, storage = tmp_path / "ledger.db", FolderStorage(tmp_path / "backups")
    ledger = sqlite_ledger(path)
    ledger.fill(50)
    name = backed_up(ledger, storage, clock)
    ledger.fill(60)
    # Without consent, a database that exists is left alone.
    with pytest.raises(BackupError, match="nothing was restored, since these databases exist: ledger"):
        restored_from(ledger, storage, name, clock())
    assert ledger.number() == 60
    beside = restored_from(ledger, storage, name, clock(), beside=True)
    assert ledger.number() == 60
    restored = restored_from(ledger, storage, name, clock(), replace=True)
    assert ledger.number() == 50 and restored.place == str(path)
    for place, number in ((beside.place, 50), (restored.kept, 60)):
        with closing(sqlite3.connect(place)) as db:
            assert db.execute("SELECT n FROM totals").fetchone() == (number,)
    assert os.stat(restored.kept).st_mode == os.stat(path).st_mode
    # A missing one needs no consent. A log that the lost file has left must not meet it.
    path.unlink()
    path.with_name("ledger.db-wal").write_bytes(b"left")
    assert not restored_from(ledger, storage, name, clock()).kept
    assert ledger.number() == 50


@pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)
def test_a_database_without_tables_is_no_backup(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    storage = FolderStorage(tmp_path / "backups")
    ledger.execute("DROP TABLE entries", "DROP TABLE totals")
    with pytest.raises(BackupError, match="has no tables; there is nothing to back up"):
        backed_up(ledger, storage, clock)
    assert storage.archives() == [] and list(storage.path.iterdir()) == []


def test_a_damaged_file_is_replaced_and_kept(tmp_path: Path, clock: Clock) -> None:
    ledger, storage = sqlite_ledger(tmp_path / "ledger.db"), FolderStorage(tmp_path / "backups")
    ledger.fill(5)
    name = backed_up(ledger, storage, clock)
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database" * 1000)
    path.with_name("ledger.db-wal").write_bytes(b"left")
    with pytest.raises(BackupError, match="damaged: file is not a database"):
        backed_up(ledger, storage, clock)
    restored = restored_from(ledger, storage, name, clock(), replace=True)
    assert ledger.number() == 5 and "restart the programs" in restored.note
    assert Path(restored.kept).read_bytes().startswith(b"no database")


def test_programs_with_the_file_open_see_the_restored_content(tmp_path: Path, clock: Clock) -> None:
    ledger, storage = sqlite_ledger(tmp_path / "ledger.db"), FolderStorage(tmp_path / "backups")
    ledger.fill(5)
    name = backed_up(ledger, storage, clock)
    ledger.fill(9)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("SELECT n FROM totals").fetchone() == (9,)
        restore_backup([ledger.database], storage, name, None, clock(), replace=True, beside=False)
        assert db.execute("SELECT n FROM totals").fetchone() == (5,)
        ledger.add(db, 6)
    assert ledger.number() == 6


def test_a_running_gateway_applies_restored_keys(tmp_path: Path, clock: Clock, rig: Rig) -> None:
    path = tmp_path / "keys.db"
    storage = FolderStorage(tmp_path / "backups")
    with closing(KeyStore(path)) as store:
        _, kept = store.create("app", (), 1)
        name = make_backup([SqliteDatabase("keys", path)], storage, "shop", clock(), "test").name
        _, later = store.create("app", (), 1)
    gateway = rig.forward(rig.upstream(answering(ok())), route={"auth": ["key"]}, keys={"store": str(path)})
    client = rig.connect(gateway)

    def status(key: str) -> int:
        return client.request("GET", "/", ("X-API-Key", key)).status

    assert [status(kept), status(later)] == [200, 200]
    restore_backup([SqliteDatabase("keys", path)], storage, name, None, clock(), replace=True, beside=False)
    wait_until(lambda: status(later) == 401, "the key that is not in the backup is refused")
    assert status(kept) == 200


def test_a_restored_database_has_the_privileges_and_settings_of_the_former(
    server: PostgresServer, tmp_path: Path, clock: Clock
) -> None:
    ledger, storage = postgresql_ledger(server), FolderStorage(tmp_path / "backups")
    name = ledger.database.place.rpartition("/")[2]
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        db.execute("CREATE ROLE reader LOGIN PASSWORD 'r'")
        db.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        db.execute(f'GRANT CONNECT ON DATABASE "{name}" TO reader')
        db.execute(f'ALTER DATABASE "{name}" SET search_path = \'public\', "O\'x"')
        db.execute(f"ALTER ROLE keeper IN DATABASE \"{name}\" SET work_mem = '8MB'")
    ledger.execute("GRANT SELECT ON entries TO reader")
    ledger.fill(5)
    query = (
        "SELECT d.datacl::text, s.setconfig::text, d.datallowconn, d.datdba::regrole::text FROM pg_database d"
        " LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid WHERE d.datname = %s ORDER BY 2"
    )
    with psycopg.connect(server.conninfo()) as db:
        before = db.execute(query, [name]).fetchall()
    archive = backed_up(ledger, storage, clock)
    ledger.fill(9)
    # A session that is open must not prevent the exchange.
    with closing(ledger.connect()) as held:
        held.execute("SELECT * FROM entries")
        restored = restored_from(ledger, storage, archive, clock(), replace=True)
    assert ledger.number() == 5
    with psycopg.connect(server.conninfo()) as db:
        assert db.execute(query, [name]).fetchall() == before
        assert db.execute(query, [restored.kept.rpartition("/")[2]]).fetchall() == before
    url = f"postgresql://reader:r@127.0.0.1:{server.port}/{name.replace(' ', '%20')}"
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (5,)
    # A missing database needs no consent, one that exists does.
    with pytest.raises(BackupError, match="nothing was restored, since these databases exist: ledger"):
        restored_from(ledger, storage, archive, clock())
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        db.execute(f'DROP DATABASE "{name}"')
    assert not restored_from(ledger, storage, archive, clock()).kept and ledger.number() == 5


def test_scratch_databases_are_dropped(server: PostgresServer, tmp_path: Path) -> None:
    ledger = postgresql_ledger(server)
    ledger.fill(5)
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        db.execute("CREATE DATABASE passerelle_verify_1000000000_00aa OWNER keeper")  # of a run that was killed
    part = ledger.database.dump(tmp_path)
    entries = part.tables["public.entries"]
    other = {**part.tables, "public.entries": entries.model_copy(update={"digest": "1"})}
    ledger.database.verify(part, tmp_path)
    with pytest.raises(BackupError, match=r"the rows of the table public\.entries have another content"):
        ledger.database.verify(part.model_copy(update={"tables": other}), tmp_path)
    with psycopg.connect(server.conninfo()) as db:
        assert db.execute("SELECT datname FROM pg_database WHERE datname LIKE 'passerelle%'").fetchall() == []


def test_what_postgresql_refuses_is_reported(server: PostgresServer, tmp_path: Path, clock: Clock) -> None:
    ledger, storage = postgresql_ledger(server), FolderStorage(tmp_path / "backups")
    name = ledger.database.place.rpartition("/")[2].replace(" ", "%20")
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        db.execute("CREATE ROLE plain LOGIN PASSWORD 'secret-word'")
        db.execute("CREATE DATABASE of_plain OWNER plain")
    of_plain = f"postgresql://plain:secret-word@127.0.0.1:{server.port}/of_plain"
    with psycopg.connect(of_plain, autocommit=True) as db:
        db.execute("CREATE TABLE t (a int)")
    cases = {
        f"postgresql://plain:wrong-word@127.0.0.1:{server.port}/of_plain": "password authentication failed",
        f"postgresql://plain:secret-word@127.0.0.1:{server.port}/nowhere": 'database "nowhere" does not exist',
        f"postgresql://plain:secret-word@127.0.0.1:{server.port}/{name}": "permission denied for table",
        "postgresql://plain:secret-word@127.0.0.1:1/of_plain": "Connection refused",
        of_plain: "permission denied to create database",
    }
    for url, reason in cases.items():
        with pytest.raises(BackupError, match=reason) as caught:
            make_backup([PostgresDatabase("of_plain", url)], storage, "shop", clock(), "test")
        assert "word" not in str(caught.value).replace("password", "") and "\n" not in str(caught.value)
    assert list(storage.path.iterdir()) == []
    # Another server for scratch databases, here the same one with another role.
    scratch = server.conninfo()
    database = PostgresDatabase("of_plain", of_plain, scratch)
    made = make_backup([database], storage, "shop", clock(), "test")
    (part,) = made.manifest.parts
    read_archive(storage.path / made.name, tmp_path, None)
    with pytest.raises(BackupError, match=r"was dumped from PostgreSQL 99\.1, and the server has the older version"):
        database.verify(part.model_copy(update={"version": "99.1"}), tmp_path)


def test_missing_programs_are_named(
    server: PostgresServer, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, storage = postgresql_ledger(server), FolderStorage(tmp_path / "backups")
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {name: find(name) for name in ("psql", "pg_dump", "pg_restore")}
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(psql, "glob", lambda _: [])  # where Debian keeps them
    for name, path in programs.items():
        with pytest.raises(BackupError, match=rf"^{name} is not installed \(Debian, Ubuntu: apt-get install"):
            make_backup([ledger.database], storage, "shop", clock(), "test")
        (folder / name).symlink_to(path)
    assert list(storage.path.iterdir()) == []


def test_a_dump_of_postgresql_on_a_full_disk_leaves_nothing(
    server: PostgresServer, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, storage = postgresql_ledger(server), FolderStorage(tmp_path / "backups")
    ledger.fill(5000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(BackupError, match=r"^ledger: .*pg_dump") as caught:
            make_backup([ledger.database], storage, "shop", clock(), "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["backups"] and list(storage.path.iterdir()) == []


def test_a_cut_dump_is_refused_by_restoring(server: PostgresServer, tmp_path: Path) -> None:
    """The check of an archive by its SHA-256 would find it as well; this is the one behind it."""
    ledger = postgresql_ledger(server)
    ledger.fill(2000)
    part = ledger.database.dump(tmp_path)
    dump = tmp_path / part.file
    dump.write_bytes(dump.read_bytes()[: part.size * 6 // 10])
    with pytest.raises(BackupError, match=r"could not read from input file|unexpected end of file"):
        ledger.database.verify(part, tmp_path)


@pytest.mark.parametrize("of", ["dump", "archive"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], of: str
) -> None:
    """A limit of the size of files stands for a full disk, since writes fail in the same way."""
    target = tmp_path / "backups"
    for name in ("a.db", "b.db"):
        with closing(sqlite3.connect(tmp_path / name)) as db:
            db.execute("CREATE TABLE t (a BLOB)")
            db.execute("INSERT INTO t VALUES (randomblob(300000))")
            db.commit()
    (tmp_path / "gateway.yaml").write_text(
        json.dumps(
            {
                "backup": {"databases": {"a": "a.db", "b": "b.db"}, "to": "backups"},
                "services": {"u": {"targets": ["http://127.0.0.1:1"]}},
                "routes": [{"path": "/", "service": "u"}],
            }
        )
    )
    target.mkdir()
    size = 400_000 if of == "archive" else 100_000  # the archive has both
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["backup"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.count("\n") == 1 and ("file too large" if of == "archive" else "disk") in said.err
    assert list(target.iterdir()) == [] and list((tmp_path / "tmp").iterdir()) == []
