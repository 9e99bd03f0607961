"""Backups of keys and sessions in Redis: complete, restored beside the present ones and in their place."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from passerelle.backup import redis_store
from passerelle.backup.databases import Restored
from passerelle.backup.errors import BackupError
from passerelle.backup.redis_store import RedisStore
from passerelle.backup.run import make_backup, restore_backup, verify_backup
from passerelle.backup.sqlite import SqliteDatabase
from passerelle.backup.storage import FolderStorage
from passerelle.security.credentials.api_keys import ApiKey, KeyStore, digest_of
from passerelle.security.credentials.redis_api_keys import RedisKeyStore
from passerelle.security.credentials.redis_sessions import key_of
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support.wire import wait_until

pytestmark = needs("redis-server")

Clock = Callable[[], datetime]
OTHER = {b"passerelle:1:cache:x": b"response", b"application": b"data"}  # what is not in a backup


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--requirepass", "pass") as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, password="pass") as connected:
        connected.flushall()
        connected.mset(OTHER)
        yield connected


@pytest.fixture
def url(server: RedisServer) -> str:
    return f"redis://:pass@127.0.0.1:{server.port}/0"


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "backups")


def backed_up(store: RedisStore, storage: FolderStorage, clock: Clock) -> str:
    return make_backup([store], storage, "shop", clock(), "test").name


def restored(store: RedisStore, storage: FolderStorage, name: str, now: datetime, **options: bool) -> Restored:
    options = {"replace": False, "beside": False, **options}
    ((_, found),) = restore_backup([store], storage, name, None, now, **options)
    return found


def keys_of(client: redis.Redis) -> list[ApiKey]:
    return RedisKeyStore(client).all()


def works(client: redis.Redis, key: str) -> bytes | None:
    """Return the id that gateways find for a key."""
    digest = digest_of(key.encode())
    assert digest is not None
    found: Any = client.get(b"passerelle:1:keys:digest:" + digest.hex().encode())
    return found


def test_keys_are_restored_as_they_were(client: redis.Redis, url: str, storage: FolderStorage, clock: Clock) -> None:
    store, keys = RedisStore("keys", url), RedisKeyStore(client)
    first, first_key = keys.create("møbile", ("orders:read",), 1, 9_999_999_999)
    second, second_key = keys.rotate(first.id, 2, 60)
    keys.revoke(first.id, 3)
    before = keys_of(client)
    name = backed_up(store, storage, clock)
    assert verify_backup([store], storage, name, None).parts[0].rows == 2
    keys.revoke(second.id, 4)
    _, third_key = keys.create("later", (), 5)
    with pytest.raises(BackupError, match="nothing was restored, since these databases exist: keys"):
        restored(store, storage, name, clock())
    beside = restored(store, storage, name, clock(), beside=True)
    assert "deleted after 7 days" in beside.note and len(keys_of(client)) == 3
    now = clock()
    found = restored(store, storage, name, now, replace=True)
    assert keys_of(client) == before
    assert works(client, first_key) == first.id.encode() and works(client, second_key) == second.id.encode()
    assert works(client, third_key) is None
    # Nothing expires that is in use, and the former content does.
    present = list(client.scan_iter(match="passerelle:1:keys:*"))
    assert {client.ttl(each) for each in present} == {-1}
    kept = found.kept.partition("(")[2].partition("*")[0]
    assert kept.startswith("passerelle:before-") and "for 7 days" in found.kept
    former = list(client.scan_iter(match=f"{kept}*"))
    assert len(former) == 7 and all(0 < client.ttl(each) <= 7 * 86400 for each in former)
    assert client.hget(f"{kept}key:{second.id}", "revoked") == b"4"
    assert client.mget(OTHER) == list(OTHER.values())


def test_keys_are_restored_to_an_empty_redis(
    client: redis.Redis, url: str, storage: FolderStorage, clock: Clock
) -> None:
    store, keys = RedisStore("keys", url), RedisKeyStore(client)
    made = [keys.create(f"owner {n}", (), n)[0] for n in range(1200)]
    name = backed_up(store, storage, clock)
    client.flushall()
    assert not store.exists()
    assert not restored(store, storage, name, clock()).kept
    assert keys_of(client) == sorted(made, key=lambda key: (key.created, key.id))


def test_sessions_keep_their_ends(client: redis.Redis, url: str, storage: FolderStorage, clock: Clock) -> None:
    store = RedisStore("sessions", url)
    names = [key_of(bytes([n]) * 32) for n in range(3)]
    for n, name in enumerate(names):
        client.hset(name, mapping={"user": f"ü{n}\\", "roles": "[]", "created": "1", "used": "1"})
        client.pexpire(name, 60_000 * (n + 1))
    ends = [client.pexpiretime(name) for name in names]
    name = backed_up(store, storage, clock)
    client.delete(names[0])
    client.hset(names[1], "user", "other")
    restored(store, storage, name, clock(), replace=True)
    assert [client.hget(each, "user") for each in names] == [f"ü{n}\\".encode() for n in range(3)]
    for each, end in zip(names, ends, strict=True):
        assert abs(client.pexpiretime(each) - end) < 1000
    # A session that has expired since the backup stays away.
    client.flushall()
    client.hset(names[0], mapping={"user": "a", "roles": "[]"})
    client.pexpire(names[0], 300)
    name = backed_up(store, storage, clock)
    wait_until(lambda: not client.exists(names[0]), "the end of the session")
    restored(store, storage, name, clock(), replace=True)
    assert list(client.scan_iter()) == []


def test_a_key_that_is_created_meanwhile_is_complete_or_missing(
    client: redis.Redis, url: str, storage: FolderStorage, clock: Clock
) -> None:
    """A writer creates keys while backups are made: each restored key can be used, and all those before are there."""
    store, keys = RedisStore("keys", url), RedisKeyStore(client)
    for n in range(200):
        keys.create("before", (), n)
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        with redis.Redis(port=int(url.rpartition(":")[2].partition("/")[0]), password="pass") as own:
            while not stop.is_set():
                written.append(RedisKeyStore(own).create("during", (), 1000)[1])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_until(lambda: len(written) > 5, "keys before the backup")
        early = len(written)
        name = backed_up(store, storage, clock)
        wait_until(lambda: len(written) > early + 5, "keys after the backup")
    finally:
        stop.set()
        thread.join()
    client.flushall()
    restored(store, storage, name, clock())
    found = keys_of(client)
    usable = [key for key in written if works(client, key) is not None]
    assert len(found) == 200 + len(usable) and len(usable) >= early
    assert len(list(client.scan_iter(match="passerelle:1:keys:*"))) == 2 * len(found) + 1


def test_what_is_wrong_is_reported(
    client: redis.Redis, url: str, storage: FolderStorage, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys = RedisStore("keys", url), RedisKeyStore(client)
    name = backed_up(store, storage, clock)  # no keys yet
    keys.create("a", (), 1)
    assert "pass" not in repr(store.place)
    # A store of another kind has another form.
    with closing(KeyStore(tmp_path / "keys.db")):
        file = SqliteDatabase("keys", tmp_path / "keys.db")
    with pytest.raises(BackupError, match="keys was backed up from redis, and the configuration has sqlite"):
        restore_backup([file], storage, name, None, clock(), replace=True, beside=False)
    # A bound on what is read.
    monkeypatch.setattr(redis_store, "MOST_ENTRIES", 1)
    with pytest.raises(BackupError, match=r"keys: redis 127.0.0.1:[0-9]+ has more than 1 entries"):
        backed_up(store, storage, clock)
    monkeypatch.undo()
    client.lpush("passerelle:1:keys:key:odd", "a list")
    with pytest.raises(BackupError, match=r"keys: redis .*WRONGTYPE"):
        backed_up(store, storage, clock)
    with pytest.raises(BackupError, match=r"sessions: redis .*invalid username-password"):
        backed_up(RedisStore("sessions", url.replace(":pass", ":other")), storage, clock)
    with pytest.raises(BackupError, match=r"keys: redis 127.0.0.1:1: .*refused"):
        backed_up(RedisStore("keys", "redis://:pass@127.0.0.1:1/0"), storage, clock)
    assert len(storage.archives()) == 1


def test_a_full_redis_leaves_nothing_behind(
    client: redis.Redis, url: str, storage: FolderStorage, clock: Clock
) -> None:
    store, keys = RedisStore("keys", url), RedisKeyStore(client)
    made = [keys.create("a", (), n)[0] for n in range(50)]
    name = backed_up(store, storage, clock)
    before = set(client.scan_iter())
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(BackupError, match="used memory > 'maxmemory'"):
            restored(store, storage, name, clock(), replace=True)
    finally:
        client.config_set("maxmemory", "0")
    assert set(client.scan_iter()) == before and len(keys_of(client)) == len(made)


def test_a_changed_dump_is_refused(client: redis.Redis, url: str, tmp_path: Path) -> None:
    store = RedisStore("keys", url)
    made, _ = RedisKeyStore(client).create("a", (), 1)
    part = store.dump(tmp_path)
    store.verify(part, tmp_path)
    with closing(sqlite3.connect(tmp_path / part.file)) as db:
        ((fields,),) = db.execute("SELECT value FROM entries WHERE name = ?", (f"key:{made.id}",))
        assert json.loads(fields)["owner"] == "a"
        db.execute("UPDATE entries SET value = ? WHERE name = ?", (fields.replace('"a"', '"b"'), f"key:{made.id}"))
        db.commit()
    with pytest.raises(BackupError, match="keys: the dump is not equal to the manifest: the rows of the table keys"):
        store.verify(part, tmp_path)
