"""Files of users and password hashes: what they may contain, and how passwords are compared."""

from __future__ import annotations

from collections.abc import Callable

import bcrypt
import pytest
from argon2 import PasswordHasher

from passerelle.http.htpasswd import (
    PasswordHash,
    Users,
    make_hash,
    name_objection,
    parse_hash,
    parse_users,
    problems_of,
)

SALT = bcrypt.gensalt(4)
CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
BCRYPT = bcrypt.hashpw(b"right", SALT).decode()
ARGON2 = CHEAP.hash("right")
APR1 = "$apr1$abcdefgh$0123456789012345678901"


@pytest.mark.parametrize("stored", [BCRYPT, BCRYPT.replace("$2b$", "$2y$"), ARGON2], ids=["2b", "2y", "argon2id"])
def test_the_right_password_is_accepted_and_no_other(stored: str) -> None:
    users = parse_users(f"# users\n\nada:{stored}\r\n".encode())
    assert users.verify("ada", "right")
    assert not any(users.verify("ada", wrong) for wrong in ("", "Right", "right ", "righ"))
    assert not users.verify("bob", "right")


def test_names_and_passwords_are_compared_in_one_form_of_unicode() -> None:
    users = parse_users("Ren\u00e9:".encode() + CHEAP.hash("caf\u00e9").encode())
    assert users.verify("Rene\u0301", "cafe\u0301")


def test_bcrypt_does_not_accept_a_longer_password_with_the_same_beginning() -> None:
    stored = parse_hash(bcrypt.hashpw(b"x" * 72, SALT).decode())
    assert stored.verifies(b"x" * 72) and not stored.verifies(b"x" * 73)


@pytest.mark.parametrize("with_bcrypt", [False, True])
def test_a_hash_that_is_made_is_accepted_and_not_weak(with_bcrypt: bool) -> None:
    made = parse_hash(make_hash(b"right", with_bcrypt=with_bcrypt))
    assert made.verifies(b"right") and not made.is_weak


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"ada:{APR1}", "found a hash of MD5, which is guessed quickly"),
        ("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "found a hash of SHA-1, which is guessed quickly"),
        ("ada:$6$salt$hash", "found a hash of crypt, which is guessed quickly"),
        ("ada:plain", "found no hash of a known kind"),
        ("ada", "found no colon; a line is NAME:HASH"),
        (f":{BCRYPT}", "a user name is not empty, and has no blanks around it"),
        (f"ada:{BCRYPT.replace('$04$', '$16$')}", "found bcrypt with a cost of 16; allowed are 4 to 15"),
        (f"ada:{ARGON2.replace('m=64', 'm=1048576')}", "found argon2 with m=1048576, t=1, p=1; allowed are at most"),
        (f"ada:{ARGON2.replace('t=1', 't=99')}", "found argon2 with m=64, t=99, p=1; allowed are at most"),
    ],
    ids=["apr1", "sha", "crypt", "plain", "no colon", "no name", "bcrypt", "argon2 memory", "argon2 time"],
)
def test_a_wrong_line_is_named_without_its_hash(line: str, problem: str) -> None:
    ((number, found),) = problems_of(f"bob:{BCRYPT}\n{line}\n".encode())
    assert number == 2 and found.startswith(problem)
    assert BCRYPT[7:] not in found and ARGON2[-20:] not in found and APR1 not in found
    with pytest.raises(ValueError, match=r"^line 2: "):
        parse_users(f"bob:{BCRYPT}\n{line}\n".encode())


def test_a_name_twice_and_octets_that_are_not_utf_8_are_wrong() -> None:
    twice = list(problems_of(f"ada:{BCRYPT}\nada:{ARGON2}\n".encode()))
    assert twice == [(2, "found 'ada' twice; it is also on line 1")]
    assert list(problems_of(b"# a\nada\xff:x\n")) == [(2, "found octets that are not UTF-8")]


@pytest.mark.parametrize("name", ["", " a", "a:b", "a\nb", "a\x7f", "x" * 1025])
def test_names_that_no_client_could_send_are_refused(name: str) -> None:
    assert name_objection(name)


def test_weak_hashes_are_known() -> None:
    assert parse_users(f"a:{BCRYPT}\nb:{make_hash(b'x')}\n".encode()).weak == ["a"]


def test_an_unknown_user_costs_the_same_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    verifies: Callable[[PasswordHash, bytes], bool] = PasswordHash.verifies

    def counted(stored: PasswordHash, password: bytes) -> bool:
        verified.append(stored.text)
        return verifies(stored, password)

    monkeypatch.setattr(PasswordHash, "verifies", counted)
    users = Users({"ada": parse_hash(BCRYPT), "bob": parse_hash(ARGON2)})
    assert not users.verify("eve", "right") and not users.verify("eve", "other")
    assert len(verified) == 2 and len(set(verified)) == 1  # always the same for a name
    users.verify("ada", "right")
    assert len(verified) == 3
    # Both kinds of hashes occur among unknown names, as among those of the file.
    for number in range(40):
        users.verify(f"eve{number}", "x")
    assert set(verified) == {BCRYPT, ARGON2}
