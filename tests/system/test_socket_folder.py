"""The folder of Unix sockets: for this user alone, short paths, and nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from passerelle.system.socket_folder import SocketFolder


def test_paths_are_new_in_a_folder_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    sockets = SocketFolder()
    paths = [Path(sockets.path()) for _ in range(3)]
    (folder,) = {path.parent for path in paths}
    assert len(set(paths)) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    paths[0].touch()
    sockets.remove()
    assert not folder.exists()


def test_a_place_whose_paths_would_be_too_long_or_that_cannot_be_written_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        sockets = SocketFolder((str(tmp_path / "missing"), str(short)))
        assert Path(sockets.path()).parent.parent == short
        sockets.remove()
    finally:
        short.rmdir()


def test_without_a_place_there_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    sockets = SocketFolder(())
    assert sockets.path() == sockets.path() == ""
    sockets.remove()
