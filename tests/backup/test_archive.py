"""Archives: complete and unchanged, or refused with the reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.backup.archive import read_archive
from passerelle.backup.encryption import Key, create_key, read_key
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Part, Table, differences
from passerelle.backup.run import make_backup
from passerelle.backup.sqlite import SqliteDatabase
from passerelle.backup.storage import FolderStorage

NOW = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)


class Made:
    """An archive of one database whose content does not compress, and its key."""

    def __init__(self, folder: Path, key: Key | None) -> None:
        path = folder / "a.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE t (a BLOB)")
            db.execute("INSERT INTO t VALUES (randomblob(100000))")
            db.commit()
        self.key = key
        self.folder = folder
        made = make_backup([SqliteDatabase("a", path)], FolderStorage(folder / "b"), "shop", NOW, "test", key=key)
        self.path = folder / "b" / made.name
        self.content = self.path.read_bytes()

    @property
    def payload(self) -> int:
        """The size of the head of age: a random one, whose last line has 48 bytes, and a nonce of 16 bytes."""
        return self.content.index(b"\n---") + 1 + 48 + 16

    def refused(self, content: bytes, key: Key | None = None) -> str:
        """Return why this content is refused."""
        path = self.folder / "changed"
        path.write_bytes(content)
        target = self.folder / "dumps"
        target.mkdir(exist_ok=True)
        with pytest.raises(BackupError) as caught:
            read_archive(path, target, key or self.key)
        for left in target.iterdir():
            left.unlink()
        assert "\n" not in str(caught.value)
        return str(caught.value)


def new_key(folder: Path, name: str) -> Key:
    create_key(folder / name, NOW)
    return read_key(folder / name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("plain"), None)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("encrypted")
    return Made(folder, new_key(folder, "key"))


@pytest.fixture(params=["plain", "encrypted"])
def made(request: pytest.FixtureRequest) -> Made:
    archive: Made = request.getfixturevalue(request.param)
    return archive


def test_an_archive_is_readable_by_its_owner_alone_and_by_tar(plain: Made, encrypted: Made) -> None:
    assert plain.path.name == "shop-20261130T030000Z.tar.gz" and encrypted.path.name == plain.path.name + ".age"
    assert os.stat(plain.path).st_mode & 0o777 == 0o600
    with tarfile.open(plain.path) as tar:
        assert tar.getnames() == ["manifest.json", "a.db"]
        manifest = json.load(tar.extractfile("manifest.json"))
    assert manifest["format"] == 1 and manifest["time"] == "2026-11-30T03:00:00Z"
    assert manifest["parts"][0]["tables"] == {"t": {"rows": 1, "digest": ""}}
    assert encrypted.content.startswith(b"age-encryption.org/v1\n-> X25519 ")


def test_an_empty_file_is_refused(made: Made) -> None:
    assert made.refused(b"") == "changed is empty"


def test_another_file_is_refused(made: Made) -> None:
    assert made.refused(b"PGDMP" + bytes(1000)) == "changed is not a backup of passerelle"
    with_tar = io.BytesIO()
    with tarfile.open(fileobj=with_tar, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("home"))
    assert "it does not begin with a manifest" in made.refused(with_tar.getvalue())


@settings(max_examples=30)
@given(share=st.floats(0.002, 0.9999))
def test_a_cut_archive_is_refused(plain: Made, encrypted: Made, share: float) -> None:
    size = max(20, int(len(plain.content) * share))
    assert plain.refused(plain.content[:size]) == "changed is cut: its end is missing"
    reason = encrypted.refused(encrypted.content[: max(encrypted.payload + 1, size)])
    assert reason in ("changed is cut: its end is missing", "changed is cut, or its end was changed")


def test_a_cut_head_is_refused(encrypted: Made) -> None:
    for size in (1, 10, 30, 100, encrypted.payload - 1):
        assert "is damaged: its head was changed or cut" in encrypted.refused(encrypted.content[:size])


@settings(max_examples=30)
@given(share=st.floats(0.01, 0.9), bit=st.integers(0, 7))
def test_a_changed_archive_is_refused(plain: Made, encrypted: Made, share: float, bit: int) -> None:
    for archive in plain, encrypted:
        changed = bytearray(archive.content)
        changed[int(len(changed) * share)] ^= 1 << bit
        reason = archive.refused(bytes(changed))
        assert "damaged" in reason if archive is plain else "was changed" in reason, reason


def test_something_after_the_end_is_refused(made: Made) -> None:
    assert "changed" in made.refused(made.content + b"more")


def test_a_wrong_key_is_refused(encrypted: Made, tmp_path: Path) -> None:
    reason = encrypted.refused(encrypted.content, new_key(tmp_path, "other"))
    assert reason == "changed was encrypted for another key than that of the key file"


def test_without_the_secret_key_an_archive_is_made_but_not_read(tmp_path: Path) -> None:
    public = create_key(tmp_path / "secret", NOW)
    (tmp_path / "public").write_text(f"# of the shop\n{public}\n")
    made = Made(tmp_path, read_key(tmp_path / "public"))
    assert "only a public key, which cannot decrypt it" in made.refused(made.content)
    (tmp_path / "dumps").mkdir(exist_ok=True)
    assert read_archive(made.path, tmp_path / "dumps", read_key(tmp_path / "secret")).parts[0].name == "a"
    with pytest.raises(BackupError, match="is encrypted; give the key with --key-file"):
        read_archive(made.path, tmp_path / "dumps", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"format": 2, "program": "passerelle 9"},
            "has the format 2, which this version cannot read (it reads 1); it was made by passerelle 9",
        ),
        ({"format": "1"}, "has the format '1', which this version cannot read"),
        ({"parts": []}, "its manifest lists no files"),
        ({"time": "yesterday"}, "its manifest has no valid time"),
        ({"file": "../a.db"}, "its manifest has no valid parts.0.file"),
        ({"file": "b.db"}, "is damaged: b.db is missing"),
        ({"sha256": "0" * 64}, "the content of a.db does not have the SHA-256 of the manifest"),
        ({"size": 5}, "the content of a.db does not have the SHA-256 of the manifest"),
        ({"twice": True}, "its manifest lists a file twice"),
        ({"more": True}, "it has files that are not in its manifest"),
        ({"text": b"[]"}, "its manifest cannot be read"),
        ({"text": b"{"}, "its manifest cannot be read"),
    ],
)
def test_another_manifest_is_refused(plain: Made, change: dict, reason: str) -> None:
    source = io.BytesIO(plain.content)
    result = io.BytesIO()
    with tarfile.open(fileobj=source) as old, tarfile.open(fileobj=result, mode="w:gz") as new:
        manifest = json.load(old.extractfile("manifest.json"))
        dump = old.extractfile("a.db").read()
        part = manifest["parts"][0]
        for key, value in change.items():
            if key in part:
                part[key] = value
            elif key in manifest:
                manifest[key] = value
        if "twice" in change:
            manifest["parts"] = [part, part]
        text = change.get("text") or json.dumps(manifest).encode()
        files = [("manifest.json", text), ("a.db", dump)] + [("b.db", dump)] * ("more" in change)
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    assert reason in plain.refused(result.getvalue())


def test_a_link_in_an_archive_is_not_followed(plain: Made) -> None:
    result = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain.content)) as old, tarfile.open(fileobj=result, mode="w:gz") as new:
        new.addfile(old.getmember("manifest.json"), old.extractfile("manifest.json"))
        link = tarfile.TarInfo("a.db")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        new.addfile(link)
    assert "a.db is missing" in plain.refused(result.getvalue())


def test_a_dump_that_unpacks_to_more_than_its_size_is_not_written(plain: Made) -> None:
    result = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain.content)) as old, tarfile.open(fileobj=result, mode="w:gz") as new:
        new.addfile(old.getmember("manifest.json"), old.extractfile("manifest.json"))
        entry = tarfile.TarInfo("a.db")
        entry.size = 5_000_000
        new.addfile(entry, io.BytesIO(bytes(entry.size)))
    path = plain.folder / "bomb"
    path.write_bytes(result.getvalue())
    target = plain.folder / "of-bomb"
    target.mkdir()
    with pytest.raises(BackupError, match="does not have the SHA-256"):
        read_archive(path, target, None)
    assert (target / "a.db").stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "has no key"),
        (b"# only this\n", "has no key"),
        (b"AGE-SECRET-KEY-1PLANTED\n", "has no valid key in line 1"),
        (b"\nage1planted\n", "has no valid key in line 2"),
        (b"\xff\xfe", "is not a key file of age"),
    ],
)
def test_wrong_key_files_are_refused_without_showing_them(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    with pytest.raises(BackupError, match=reason) as caught:
        read_key(path)
    assert "planted" not in str(caught.value).lower()


def test_a_new_key_replaces_no_file(tmp_path: Path) -> None:
    create_key(tmp_path / "key", NOW)
    assert os.stat(tmp_path / "key").st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_key(tmp_path / "key", NOW)


@pytest.mark.parametrize(
    ("tables", "layout", "expected"),
    [
        ({"t": Table(rows=1), "u": Table(rows=2, digest="7")}, "same", []),
        ({"t": Table(rows=1)}, "same", ["the table u is missing"]),
        ({"t": Table(rows=0), "u": Table(rows=2, digest="7")}, "same", ["the table t has 0 rows instead of 1"]),
        (
            {"t": Table(rows=1), "u": Table(rows=2, digest="8")},
            "same",
            ["the rows of the table u have another content"],
        ),
        (
            {"t": Table(rows=1), "u": Table(rows=2, digest="7"), "v": Table(rows=0)},
            "same",
            ["the table v is not in the manifest"],
        ),
        (
            {"t": Table(rows=1), "u": Table(rows=2, digest="7")},
            "other",
            ["columns, indexes, constraints or other parts of the schema differ"],
        ),
    ],
)
def test_how_a_restored_database_differs(tables: dict[str, Table], layout: str, expected: list[str]) -> None:
    part = Part(
        name="a",
        engine="postgresql",
        version="15.1",
        file="a.dump",
        size=1,
        sha256="",
        layout="same",
        tables={"t": Table(rows=1), "u": Table(rows=2, digest="7")},
    )
    assert differences(part, layout, tables) == expected


def test_gzip_and_age_are_the_only_layers(plain: Made) -> None:
    assert gzip.decompress(plain.content)[257:262] == b"ustar"
