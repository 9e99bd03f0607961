"""API keys: their format, their store, and which keys are accepted until when."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from pathlib import Path
from typing import cast

import pytest

from passerelle.errors import Failure, Kind
from passerelle.security.credentials import authentication
from passerelle.security.credentials.api_keys import KeyStore, UnknownKey, digest_of, new_key
from passerelle.security.credentials.authentication import Authenticate, CredentialRejected, FileKeyMethod
from passerelle.security.guard import RequestRefused
from passerelle.security.identity import Identity
from tests.security.ratelimit.test_gcra import asked

NOW = 1_800_000_000


@pytest.fixture
def store(tmp_path: Path):
    made = KeyStore(tmp_path / "keys.db")
    yield made
    made.close()


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def shown(key: str, name: bytes = b"x-api-key"):
    return asked(b"203.0.113.5", (name, key.encode()))


def test_a_key_is_random_and_has_its_form() -> None:
    made = [new_key() for _ in range(200)]
    assert len({key for _, key in made}) == len({identity for identity, _ in made}) == 200
    for identity, key in made:
        assert key.startswith(f"psr_{identity}_") and len(key) == 58
        assert digest_of(key.encode()) == hashlib.sha256(key.encode()).digest()


@pytest.mark.parametrize(
    "text", [b"", b"psr_", b"psr_aaaaaaaaaa_" + b"x" * 42, b"psr_aaaaaaaaa1_" + b"x" * 43, b"x" * 58]
)
def test_what_is_no_key_is_not_looked_up(text: bytes) -> None:
    assert digest_of(text) is None


def test_the_file_holds_no_key_and_only_its_owner_reads_it(store: KeyStore) -> None:
    made, key = store.create("app", ["a", "b"], NOW)
    store.close()
    data = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert made.id.encode() in data
    assert key.encode() not in data and key[15:].encode() not in data
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_life_of_a_key(store: KeyStore) -> None:
    made, key = store.create("app", ["orders:read"], NOW, NOW + 100)
    found = store.find(digest_of(key.encode()) or b"")
    assert found == made == store.get(made.id)
    assert (found.owner, found.scopes) == ("app", ("orders:read",))
    assert found.refusal(NOW + 99.9) == ""
    assert found.refusal(NOW + 100) == "expired"
    store.touch({made.id: NOW + 5, "unknown": 1})
    store.touch({made.id: NOW + 3})
    assert store.all()[0].last_used == NOW + 5
    store.revoke(made.id, NOW + 6)
    store.revoke(made.id, NOW + 9)
    again = store.get(made.id)
    assert again is not None and again.revoked == NOW + 6 and again.refusal(NOW) == "revoked"
    with pytest.raises(UnknownKey):
        store.revoke("aaaaaaaaaa", NOW)
    assert store.get("' OR 1=1 --") is None


def test_rotation_overlaps(store: KeyStore) -> None:
    old, _ = store.create("app", ["a"], NOW)
    new, _ = store.rotate(old.id, NOW + 10, 60, NOW + 1000)
    assert (new.owner, new.scopes, new.replaces, new.expires) == ("app", ("a",), old.id, NOW + 1000)
    ended = store.get(old.id)
    assert ended is not None and ended.expires == NOW + 70
    store.rotate(old.id, NOW + 20, 3600)  # a longer overlap does not extend an earlier expiry
    again = store.get(old.id)
    assert again is not None and again.expires == NOW + 70
    for identity in (old.id, "aaaaaaaaaa"):
        with pytest.raises(UnknownKey):
            store.rotate(identity, NOW + 500, 60)
    assert len(store.all()) == 3


# ---- acceptance


def test_a_key_establishes_its_owner(store: KeyStore) -> None:
    made, key = store.create("app", ["b", "a"], NOW)
    method = FileKeyMethod(store, b"x-api-key", Clock())
    found = method.identify(shown(key))
    assert isinstance(found, Identity)
    assert (found.consumer, found.scopes, found.key) == ("app", {"a", "b"}, made.id)
    assert found.lines == b"X-Consumer: app\r\nX-Consumer-Scopes: a b\r\nX-Consumer-Auth: key\r\n"
    assert method.used == {made.id: NOW}
    assert method.identify(asked()) is None


def test_what_does_not_hold_is_rejected_without_showing_it(store: KeyStore) -> None:
    clock = Clock()
    made, key = store.create("app", [], NOW, NOW + 10)
    method = FileKeyMethod(store, b"x-api-key", clock)
    unknown = f"psr_{made.id}_{'x' * 43}"
    doubled = asked(b"", (b"x-api-key", key.encode()), (b"x-api-key", key.encode()))
    for request in (shown("nonsense"), shown(unknown), doubled):
        with pytest.raises(CredentialRejected) as why:
            method.identify(request)
        assert "xxx" not in str(why.value) and key not in str(why.value)
    assert method.identify(shown(key))
    clock.now += 10  # also if it is cached
    with pytest.raises(CredentialRejected, match="expired"):
        method.identify(shown(key))


def test_a_revoked_key_is_refused_after_the_next_refresh(store: KeyStore, tmp_path: Path) -> None:
    made, key = store.create("app", [], NOW)
    method = FileKeyMethod(store, b"x-api-key", Clock())
    assert method.identify(shown(key))
    other = KeyStore(tmp_path / "keys.db")
    other.revoke(made.id, NOW)
    other.close()
    method.refresh()
    with pytest.raises(CredentialRejected, match="revoked"):
        method.identify(shown(key))


@pytest.mark.parametrize(("former", "later"), [(1, 300), (300, 2), (2, 2)])
def test_a_file_that_replaces_the_store_is_seen(store: KeyStore, tmp_path: Path, former: int, later: int) -> None:
    method = FileKeyMethod(store, b"x-api-key", Clock())
    with contextlib.closing(KeyStore(tmp_path / "keys.db")) as command:
        old = [command.create("old" * 20, [], NOW)[1] for _ in range(former)]
    with contextlib.closing(KeyStore(tmp_path / "new.db")) as command:
        new = [command.create("new" * 20, [], NOW) for _ in range(later)]
    method.refresh()
    assert method.identify(shown(old[0]))
    (tmp_path / "new.db").rename(tmp_path / "keys.db")
    with contextlib.closing(KeyStore(tmp_path / "keys.db")) as command:
        assert len(command.all()) == later
        command.revoke(new[-1][0].id, NOW)
    method.refresh()
    with pytest.raises(CredentialRejected, match="unknown"):
        method.identify(shown(old[0]))
    with pytest.raises(CredentialRejected, match="revoked"):
        method.identify(shown(new[-1][1]))
    assert method.identify(shown(new[0][1]))


def test_a_missing_store_rejects_every_key_until_it_is_back(store: KeyStore, tmp_path: Path) -> None:
    method = FileKeyMethod(store, b"x-api-key", Clock())
    with contextlib.closing(KeyStore(store.path)) as command:
        key = command.create("app", [], NOW)[1]
    method.refresh()
    assert method.identify(shown(key))
    with contextlib.closing(KeyStore(tmp_path / "new.db")) as command:
        again = command.create("app", [], NOW)[1]
    store.path.unlink()
    for _ in range(2):
        method.refresh()
        with pytest.raises(Failure) as failed:
            method.identify(shown(key))
        assert failed.value.kind is Kind.UNVERIFIABLE
    (tmp_path / "new.db").rename(store.path)
    method.refresh()
    assert method.identify(shown(again))


def test_what_is_remembered_is_bounded(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "REMEMBERED_KEYS", 5)
    keys = [store.create(f"c{n}", [], NOW)[1] for n in range(20)]
    method = FileKeyMethod(store, b"x-api-key", Clock())
    for key in keys * 2:
        assert method.identify(shown(key))
        assert method.identify(shown(keys[0]))
    assert len(method._known) == 5
    assert digest_of(keys[0].encode()) in method._known  # frequently used keys stay


def test_a_store_that_cannot_be_read_admits_no_request(store: KeyStore) -> None:
    _, key = store.create("app", [], NOW)
    method = FileKeyMethod(store, b"x-api-key", Clock())
    assert method.identify(shown(key))
    store.close()
    method.refresh()
    with pytest.raises(Failure) as failed:
        method.identify(shown(key))
    assert failed.value.kind is Kind.UNVERIFIABLE


# ---- the guard


def test_without_credentials_the_answer_names_what_is_accepted(store: KeyStore) -> None:
    guard = Authenticate([FileKeyMethod(store, b"x-api-key", Clock())], (b"x-api-key",))
    with pytest.raises(RequestRefused) as refused:
        guard(asked())
    assert refused.value.kind is Kind.UNAUTHENTICATED
    assert refused.value.detail == "no credentials"
    assert refused.value.fields == [(b"WWW-Authenticate", b'ApiKey realm="passerelle"')]


def test_the_key_is_withheld_and_the_identity_added(store: KeyStore) -> None:
    _, key = store.create("app", [], NOW)
    request = shown(key)
    Authenticate([FileKeyMethod(store, b"x-api-key", Clock())], (b"x-api-key",))(request)
    line = request.fields[0].line
    section = b"A: 1\r\n" + line + b"\r\nB: " + line + b"\r\n"
    assert request.upstream_section(section) == b"A: 1\r\nB: " + line + b"\r\n" + request.upstream_fields
    assert request.upstream_section(line + b"\r\n") == request.upstream_fields


def test_opening_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, it is a text of some length\n" * 50)
    for path in (tmp_path / "text", tmp_path / "missing" / "keys.db", tmp_path):
        with pytest.raises(sqlite3.Error):
            KeyStore(path)


def test_workers_may_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    for round_ in range(10):
        barrier, failures = threading.Barrier(6), []

        def open_it(path: Path, barrier: threading.Barrier = barrier, failures: list[Exception] = failures) -> None:
            barrier.wait()
            try:
                store = KeyStore(path)
                store.create("app", [], NOW)
                store.close()
            except sqlite3.Error as error:
                failures.append(error)

        threads = [threading.Thread(target=open_it, args=(tmp_path / f"{round_}.db",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


def test_a_write_that_fails_midway_leaves_nothing_and_nothing_open(store: KeyStore) -> None:
    made, _ = store.create("alice", ["read"], 100)
    with pytest.raises(sqlite3.Error):
        store.touch({made.id: 200, "abcdefghij": cast(int, object())})
    assert [key.last_used for key in store.all()] == [None]
    store.touch({made.id: 300})
    assert [key.last_used for key in store.all()] == [300]
