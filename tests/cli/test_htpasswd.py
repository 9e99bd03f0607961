"""``passerelle htpasswd`` and ``passerelle keys digest``: what a file needs instead of a password or key."""

from __future__ import annotations

import hashlib
import io
import sys

import pytest

from passerelle.cli.main import main
from passerelle.http.htpasswd import parse_users


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(given: bytes, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.mark.parametrize("option", [(), ("--bcrypt",)])
def test_the_line_is_accepted_as_a_file(run, option: tuple[str, ...]) -> None:
    code, out, _ = run("caf\u00e9 \r\n".encode(), "htpasswd", "ada", *option)
    assert code == 0 and out.count("\n") == 1
    users = parse_users(out.encode())
    assert users.verify("ada", "caf\u00e9 ") and not users.verify("ada", "caf\u00e9")


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        (b"x\n", ("a:b",), "a user name has no colon and no control characters"),
        (b"x\n", ("",), "a user name is not empty, and has no blanks around it"),
        (b"", ("ada",), "a password has 1 to 1024 octets, without NUL"),
        (b"x" * 1025, ("ada",), "a password has 1 to 1024 octets, without NUL"),
        (b"x" * 73, ("ada", "--bcrypt"), "bcrypt ignores all but the first 72 octets; use a shorter password"),
        (b"\xff\n", ("ada",), "the password is not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_refused(run, given: bytes, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(given, "htpasswd", *arguments)
    assert (code, out) == (2, "") and said in err


def test_the_digest_of_a_key(run) -> None:
    key = "0123456789abcdef0123"
    assert run(f"{key}\n".encode(), "keys", "digest") == (0, hashlib.sha256(key.encode()).hexdigest() + "\n", "")
    assert run(b"short\n", "keys", "digest")[0] == 2
