"""Backups in a storage that is compatible with S3: rclone's server, which checks the signature of each request."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from passerelle.backup.errors import BackupError
from passerelle.backup.rotation import Keep
from passerelle.backup.run import make_backup, newest, restore_backup, verify_backup
from passerelle.backup.s3 import Bucket, S3Storage
from passerelle.backup.sqlite import SqliteDatabase
from tests.support.wire import wait_until


def address(log: str) -> str | None:
    match = re.search(r"server on \[(http://[\d.:]+)/\]", log)
    return match and match[1]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    folder = tmp_path_factory.mktemp("s3")
    (folder / "backups").mkdir()
    program = Path(sys.executable).with_name("rclone")
    command = [program, "serve", "s3", "--auth-key", "ACCESS,SECRET", "--addr", "127.0.0.1:0", folder]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={"RCLONE_CONFIG": "", "HOME": str(folder)})
    try:
        wait_until(lambda: address((folder / "log").read_text()), "the storage is there", 20)
        endpoint = address((folder / "log").read_text())
        yield Bucket("backups", "of/shop", endpoint, "eu-west-1", "ACCESS", "SECRET")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def database(tmp_path: Path) -> SqliteDatabase:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (a BLOB)")
        db.execute("INSERT INTO t VALUES (randomblob(9000000))")  # several parts of an upload
        db.commit()
    return SqliteDatabase("a", path)


def test_a_backup_is_uploaded_verified_rotated_and_restored(
    bucket: Bucket, database: SqliteDatabase, clock: Callable[[], datetime]
) -> None:
    storage = S3Storage(bucket)
    assert storage.archives() == []
    first = make_backup([database], storage, "shop", clock(), "test", keep=Keep(daily=1))
    (archive,) = storage.archives()
    assert (archive.name, archive.size) == (first.name, first.size) and archive.size > 9_000_000
    with closing(sqlite3.connect(database.path)) as db:
        db.execute("UPDATE t SET a = 'small'")
        db.commit()
        db.execute("VACUUM")
    second = make_backup([database], storage, "shop", clock(), "test", keep=Keep(daily=1))
    assert second.deleted == (first.name,)
    assert newest(storage.archives(), "shop").name == second.name
    assert verify_backup([database], storage, second.name, None) == second.manifest
    with closing(sqlite3.connect(database.path)) as db:
        db.execute("DELETE FROM t")
        db.commit()
    restore_backup([database], storage, second.name, None, clock(), replace=True, beside=False)
    with closing(sqlite3.connect(database.path)) as db:
        assert db.execute("SELECT a FROM t").fetchone() == ("small",)
    with pytest.raises(BackupError, match="exists already"), storage.adding(second.name):
        pass
    storage.delete(second.name)
    assert storage.archives() == []


def test_what_the_storage_refuses_is_reported_on_one_line(bucket: Bucket) -> None:
    cases = {
        replace(bucket, secret_key="PLANTED"): "SignatureDoesNotMatch",
        replace(bucket, name="missing"): "there is no such bucket",
        replace(bucket, endpoint="http://127.0.0.1:1"): "error sending request",
    }
    for wrong, reason in cases.items():
        storage = S3Storage(wrong)
        with pytest.raises(BackupError, match=reason) as caught, storage.adding("a-20260101T000000Z.tar.gz") as path:
            path.write_bytes(b"1")
        assert "\n" not in str(caught.value) and "PLANTED" not in str(caught.value)
    missing = pytest.raises(BackupError, match="there is no backup s3://backups/of/shop/missing")
    with missing, S3Storage(bucket).fetched("missing"):
        pass
    assert "SECRET" not in repr(bucket)
