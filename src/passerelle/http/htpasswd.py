"""Files of user names and password hashes, as Apache's htpasswd writes them: ``NAME:HASH`` on each line.

The hashes are those of bcrypt and argon2, which make each guess expensive. Those of MD5 (``$apr1$``), SHA-1 (``{SHA}``)
and crypt are refused: a graphics card tries billions of them in a second.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

MOST_BYTES = 4 * 1024 * 1024
"""Largest file; a user takes about 100 bytes."""
LONGEST = 1024
"""Longest user name and password, in octets of UTF-8."""
BCRYPT_LONGEST = 72
"""bcrypt ignores further octets of a password."""

# Above these, one verification takes seconds, or 256 MiB and more.
_BCRYPT_COST = 15
_ARGON2_MEMORY, _ARGON2_TIME, _ARGON2_LANES = 256 * 1024, 16, 16
# Below these, guesses are cheap (OWASP Password Storage Cheat Sheet).
_WEAK_COST, _WEAK_MEMORY = 10, 7 * 1024

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}").fullmatch
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(\d{1,8}),t=(\d{1,8}),p=(\d{1,8})\$[A-Za-z0-9+/]{11,88}\$[A-Za-z0-9+/]{16,88}"
).fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_ALLOWED = "allowed are bcrypt ($2y$) and argon2 ($argon2id$), as `passerelle htpasswd` makes them"


class PasswordHash(NamedTuple):
    """A stored hash; ``is_weak`` where guesses are cheap."""

    text: str
    is_weak: bool

    def verifies(self, password: bytes) -> bool:
        """Return whether ``password`` is right. Takes as long as the parameters of the hash demand."""
        if self.text.startswith("$argon2"):
            return _verify_argon2(self.text, password)
        import bcrypt

        matches = bcrypt.checkpw(password[:BCRYPT_LONGEST], self.text.encode("ascii"))
        return matches and len(password) <= BCRYPT_LONGEST


def _verify_argon2(stored: str, password: bytes) -> bool:
    from argon2 import Type
    from argon2.exceptions import VerifyMismatchError
    from argon2.low_level import verify_secret

    kinds = {"argon2id": Type.ID, "argon2i": Type.I, "argon2d": Type.D}
    try:
        return verify_secret(stored.encode("ascii"), password, kinds[stored.split("$")[1]])
    except VerifyMismatchError:
        return False


def parse_hash(text: str) -> PasswordHash:
    """Parse a hash. Raises ValueError, without the hash, if it is of another kind or too expensive to verify."""
    if (match := _BCRYPT(text)) is not None:
        cost = int(match[1])
        if not 4 <= cost <= _BCRYPT_COST:
            raise ValueError(f"found bcrypt with a cost of {cost}; allowed are 4 to {_BCRYPT_COST}")
        return PasswordHash(text, cost < _WEAK_COST)
    if (match := _ARGON2(text)) is not None:
        memory, time, lanes = (int(number) for number in match.groups())
        if not (1 <= time <= _ARGON2_TIME and 1 <= lanes <= _ARGON2_LANES and 8 * lanes <= memory <= _ARGON2_MEMORY):
            most = f"m={_ARGON2_MEMORY} (KiB), t={_ARGON2_TIME}, p={_ARGON2_LANES}"
            raise ValueError(f"found argon2 with m={memory}, t={time}, p={lanes}; allowed are at most {most}")
        return PasswordHash(text, memory < _WEAK_MEMORY)
    if text.startswith(("$apr1$", "$1$", "{SHA}", "$5$", "$6$")):
        found = "MD5" if text.startswith(("$apr1$", "$1$")) else "SHA-1" if text[0] == "{" else "crypt"
        raise ValueError(f"found a hash of {found}, which is guessed quickly; {_ALLOWED}")
    raise ValueError(f"found no hash of a known kind; {_ALLOWED}")


def make_hash(password: bytes, *, with_bcrypt: bool = False) -> str:
    """Return a new hash of a password, with argon2id (RFC 9106 §4) or bcrypt."""
    if with_bcrypt:
        import bcrypt

        return bcrypt.hashpw(password, bcrypt.gensalt(12)).decode("ascii")
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)


def normalized(text: str) -> str:
    """Return a user name or password in the form in which it is compared (RFC 8265 §4.2.2: NFC)."""
    return unicodedata.normalize("NFC", text)


def name_objection(name: str) -> str:
    """Return why ``name`` cannot be a user name (RFC 7617 §2), or an empty string."""
    if not name or name != name.strip():
        return "a user name is not empty, and has no blanks around it"
    if ":" in name or _CONTROL(name):
        return "a user name has no colon and no control characters"
    return "" if len(name.encode()) <= LONGEST else f"a user name has at most {LONGEST} octets"


class Users:
    """The users of a file, and their hashes."""

    def __init__(self, hashes: Mapping[str, PasswordHash]) -> None:
        self._hashes = dict(hashes)
        self._all = list(hashes.values())
        self._secret = secrets.token_bytes(32)

    @property
    def weak(self) -> list[str]:
        """The users whose passwords are cheap to guess if the file leaks."""
        return [name for name, stored in self._hashes.items() if stored.is_weak]

    def verify(self, name: str, password: str) -> bool:
        """Return whether the password is right.

        For an unknown user the same work is done with the hash of another one, always the same for a name: the time
        does not show which names exist.
        """
        data = normalized(password).encode()
        stored = self._hashes.get(normalized(name))
        if stored is not None:
            return stored.verifies(data)
        if self._all:
            choice = hashlib.blake2b(name.encode(), key=self._secret, digest_size=8).digest()
            self._all[int.from_bytes(choice, "big") % len(self._all)].verifies(data)
        return False


def problems_of(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number of each wrong line (1 is the first) and what is wrong with it."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        yield data.count(b"\n", 0, error.start) + 1, "found octets that are not UTF-8"
        return
    seen: dict[str, int] = {}
    for number, name, stored in _entries(text):
        if stored is None:
            yield number, "found no colon; a line is NAME:HASH"
        elif objection := name_objection(name):
            yield number, objection
        elif seen.setdefault(name, number) != number:
            yield number, f"found {name!r} twice; it is also on line {seen[name]}"
        else:
            try:
                parse_hash(stored)
            except ValueError as error:
                yield number, str(error)


def parse_users(data: bytes) -> Users:
    """Parse a file. Raises ValueError with the first wrong line."""
    for number, problem in problems_of(data):
        raise ValueError(f"line {number}: {problem}")
    return Users({name: parse_hash(stored or "") for _, name, stored in _entries(data.decode())})


def _entries(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield line number, name and hash (None without a colon). Empty lines and comments are skipped."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, stored = line.partition(":")
        yield number, normalized(name), stored.strip() if colon else None
