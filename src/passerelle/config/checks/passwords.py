"""Checks of user names and passwords, and of API keys in the file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice

from passerelle.config.checks.files import unreadable
from passerelle.config.models.basic import Basic
from passerelle.config.models.config import Config
from passerelle.config.models.guards import Keys
from passerelle.config.problems import Finding, Loc
from passerelle.http.htpasswd import MOST_BYTES, parse_users, problems_of
from passerelle.system.files import read_at_most

_FILE: Loc = ("basic", "file")
_PACKAGES = {"argon2": "argon2-cffi", "bcrypt": "bcrypt"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_LINES = 10


def basic_errors(basic: Basic) -> Iterator[Finding]:
    """Check ``basic``: the packages that it needs, and each line of its file."""
    missing = [package for name, package in _PACKAGES.items() if find_spec(name) is None]
    if missing:
        message = f"basic needs {' and '.join(missing)}: pip install 'passerelle[passwords]'"
        yield Finding(("basic",), message, at_key=True)
    if (finding := unreadable(_FILE, basic.file)) is not None:
        yield finding
        return
    try:
        problems = list(islice(problems_of(read_at_most(basic.file, MOST_BYTES)), _MOST_LINES + 1))
    except (OSError, ValueError) as error:
        yield Finding(_FILE, f"{basic.file}: {error}", here=True)
        return
    if problems:
        lines = [f"{basic.file}:{number}: {problem}" for number, problem in problems[:_MOST_LINES]]
        more = ["and further lines"] if len(problems) > _MOST_LINES else []
        yield Finding(_FILE, "; ".join([*lines, *more]), here=True)


def key_errors(keys: Keys) -> Iterator[Finding]:
    """Check the keys of the file: each once."""
    seen: dict[bytes, int] = {}
    for index, key in enumerate(keys.fixed):
        if key.key is None and key.sha256 is None:
            continue  # reported as a shape
        first = seen.setdefault(key.digest, index)
        if first != index:
            yield Finding(("keys", "fixed", index), f"found the key of fixed[{first}] again", at_key=True)


def key_warnings(config: Config) -> Iterator[Finding]:
    """Find keys that may leak."""
    if config.keys is not None and config.keys.query is not None:
        message = "keys in URLs remain in histories, bookmarks and the logs of proxies; prefer the header"
        yield Finding(("keys", "query"), message, at_key=True)


def basic_warnings(config: Config) -> Iterator[Finding]:
    """Find passwords that are cheap to guess, or that others can read in transit."""
    basic = config.basic
    if basic is None:
        return
    try:
        weak = parse_users(read_at_most(basic.file, MOST_BYTES)).weak
    except (OSError, ValueError):  # reported as an error
        weak = []
    if weak:
        names = ", ".join(map(repr, weak[:3])) + (f" and {len(weak) - 3} others" if len(weak) > 3 else "")
        yield Finding(_FILE, f"the hashes of {names} are cheap to guess: use bcrypt with a cost of 10 or more")
    is_open = any(
        not config.is_secure(each)
        and each.https_redirect is None
        and each.address.host not in _LOOPBACK
        and not each.address.is_socket
        for each in config.listen
    )
    if is_open and not config.trusted_proxies:
        yield Finding(("basic",), "without TLS, anyone on the network path can read the passwords", at_key=True)
