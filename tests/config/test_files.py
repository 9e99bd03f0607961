"""Files and folders that a start needs: errors on this machine, and warnings for a file of another machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from passerelle.config import LoadReport, inspect_text
from passerelle.security.credentials.api_keys import KeyStore

SERVICES = "services: {u: {targets: ['https://127.0.0.1:1']}}\n"
LOG = "access_log: var/access.log\n"
KEYS = "keys: {store: var/keys.db}\n"


def judged(folder: Path, blocks: str, *, elsewhere: bool = False) -> LoadReport:
    auth = ", auth: [key]" if "keys:" in blocks else ""
    route = f"routes: [{{path: /, service: u{auth}}}]\n"
    return inspect_text(blocks + SERVICES + route, environ={}, folder=folder, elsewhere=elsewhere)


def messages(folder: Path, blocks: str) -> list[str]:
    return [str(error).replace(f"{folder}/", "") for error in judged(folder, blocks).errors]


@contextmanager
def another_user() -> Iterator[Path]:
    """Make a folder that other users may read, and take the rights of another user where that is possible."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def without_rights() -> Iterator[None]:
    """Drop the rights of root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_files_that_a_start_creates_are_not_errors(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    assert messages(tmp_path, LOG + KEYS) == []
    assert not list((tmp_path / "var").iterdir()), "a check makes nothing"
    KeyStore(tmp_path / "var/keys.db").close()
    (tmp_path / "var/access.log").write_text("{}\n")
    assert messages(tmp_path, LOG + KEYS) == []


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "var/access.log").symlink_to(tmp_path / "there/access.log")
    assert messages(tmp_path, LOG) == []
    (tmp_path / "there").rmdir()
    (message,) = (error.message for error in judged(tmp_path, LOG).errors)
    where = (tmp_path / "there").resolve()
    assert message == f"cannot write {tmp_path / 'var/access.log'}: the folder {where} does not exist; create it first"
    (tmp_path / "there").symlink_to("there")
    assert len(messages(tmp_path, LOG)) == 1, "a circle of links"


def test_a_log_may_be_a_device(tmp_path: Path) -> None:
    assert messages(tmp_path, "access_log: /dev/null\n") == []


@pytest.mark.parametrize(
    ("mode", "inside", "blocks", "expected"),
    [
        (0o555, {}, LOG, ["1:13: access_log: cannot write var/access.log: no permission to create a file in var"]),
        (0o555, {}, KEYS, ["1:15: keys.store: cannot write var/keys.db: no permission to create a file in var"]),
        (
            0o555,
            {"keys.db": 0o666},
            KEYS,
            ["1:15: keys.store: cannot write var/keys.db: no permission to create files in var, which SQLite needs"],
        ),
        (0o777, {"keys.db": 0o222}, KEYS, ["1:15: keys.store: cannot write var/keys.db: no permission to read it"]),
        (0o777, {"keys.db": 0o444}, KEYS, ["1:15: keys.store: cannot write var/keys.db: no permission to write it"]),
        (
            0o777,
            {"access.log": 0o444},
            LOG,
            ["1:13: access_log: cannot write var/access.log: no permission to write it"],
        ),
        (0o555, {"access.log": 0o222}, LOG, []),
        (0o000, {}, LOG, ["1:13: access_log: cannot write var/access.log: permission denied"]),
        (0o777, {"keys.db": 0o666}, KEYS, []),
    ],
)
def test_missing_permissions_are_errors(mode: int, inside: dict[str, int], blocks: str, expected: list[str]) -> None:
    with another_user() as folder:
        (folder / "var").mkdir()
        for name, rights in inside.items():
            (folder / "var" / name).touch()
            (folder / "var" / name).chmod(rights)
        (folder / "var").chmod(mode)
        try:
            with without_rights():
                found = messages(folder, blocks)
        finally:
            (folder / "var").chmod(0o777)
    assert found == [f"gateway.yaml:{line}" for line in expected]


def test_files_of_another_machine_are_warnings(tmp_path: Path) -> None:
    blocks = (
        LOG
        + KEYS
        + "tls: {certificate: c.pem, key: k.pem, client_ca: a.pem}\n"
        + "jwt: {algorithms: [RS256], key: j.pem, audience: x}\n"
        + "identity_token: {key: i.pem}\n"
    )
    services = "services: {u: {targets: ['https://127.0.0.1:1'], tls: {ca: u.pem}}, app: {app: a:b, cwd: app}}\n"
    routes = "routes: [{path: /, service: u, auth: [key, jwt, mtls], identity_token: true}, {path: /a, service: app}]\n"
    text = blocks + services + routes
    here = inspect_text(text, environ={}, folder=tmp_path)
    assert [error.key for error in here.errors] == [
        *("access_log", "keys.store", "tls.certificate", "tls.key", "tls.client_ca", "jwt.key"),
        *("identity_token.key", "services.u.tls.ca", "services.app.cwd"),
    ]
    assert here.config is None
    there = inspect_text(text, environ={}, folder=tmp_path, elsewhere=True)
    assert there.errors == ()
    assert there.warnings == here.errors
    assert there.config is not None
    # A file that cannot be valid on any machine is still an error.
    wrong = inspect_text(text.replace("cwd: app", "cwd: 5"), environ={}, folder=tmp_path, elsewhere=True)
    assert [error.key for error in wrong.errors] == ["services.app.cwd"]


def test_a_path_from_a_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush/keys.db")
    for elsewhere in (False, True):
        report = judged(tmp_path, "keys: {store: '${file:secret}'}\n", elsewhere=elsewhere)
        problems = [*report.errors, *report.warnings]
        assert [problem.key for problem in problems] == ["keys.store"]
        assert "hush" not in str(problems)


TRY = """
import fcntl, sys
with open(sys.argv[1], "rb+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def test_a_check_does_not_release_the_locks_of_a_store(tmp_path: Path) -> None:
    """SQLite uses POSIX locks, which a process loses when it closes the file anywhere."""
    (tmp_path / "var").mkdir()
    path = tmp_path / "var/keys.db"
    with path.open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert messages(tmp_path, KEYS) == []
        tried = subprocess.run([sys.executable, "-c", TRY, path], capture_output=True, text=True)
    assert "BlockingIOError" in tried.stderr
