"""What the lock file for development does not install: programs, and packages that only the benchmarks need.

A test says which it needs, and is skipped by name where one is missing; the summary counts them. With ``CI=true`` a
missing one fails the test instead: a green run that skipped half proves nothing. ``scripts/system-packages test``
installs the programs where it may, ``make .venv/.bench`` the packages.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterable
from glob import glob
from types import ModuleType
from typing import NoReturn

import pytest

# program -> package of Debian and Ubuntu
PACKAGES = {
    "caddy": "caddy",
    "chromium": "chromium",
    "curl": "curl",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "initdb": "postgresql",
    "nginx": "nginx",
    "openssl": "openssl",
    "pebble": "pebble",
    "pg_ctl": "postgresql",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "taskset": "util-linux",
    "unshare": "util-linux",
    "varnishd": "varnish",
    "wrk": "wrk",
}

# Debian keeps daemons off the path of ordinary users, and PostgreSQL's off everybody's; the newest comes first.
_FOLDERS = ["/usr/sbin", "/usr/local/sbin", *sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)]


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark a test, a class or (as ``pytestmark``) a module as one that starts these programs."""
    unknown = set(programs) - PACKAGES.keys()
    if unknown:
        raise ValueError(f"no package is known for {', '.join(sorted(unknown))}: add it to {__name__}")
    return pytest.mark.needs(*programs)


def program(name: str) -> str:
    """Where the program is. Skips (or, with ``CI=true``, fails) the calling test where it is not."""
    found = find(name)
    if found is None:
        missing(name)
    return found


def find(name: str) -> str | None:
    """Where the program is, or None."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_FOLDERS))


def missing(name: str) -> NoReturn:
    """Skip, or with ``CI=true`` fail, for want of a program."""
    absent(f"{name} is missing (Debian, Ubuntu: apt-get install {PACKAGES[name]})")


def module(name: str) -> ModuleType:
    """Import a package that only the benchmarks need; where it is missing, skip the calling test or module, or fail."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        absent(f"{name} is missing (make .venv/.bench)")


def absent(reason: str) -> NoReturn:
    """Skip, or with ``CI=true`` fail, for want of what ``reason`` names first."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def summary(reasons: Iterable[str]) -> str:
    """One line about the tests that were skipped for these reasons, as far as :func:`absent` gave them, or nothing."""
    wanting = [match[1] for reason in reasons if (match := re.search(r"(\S+) is missing", reason))]
    if not wanting:
        return ""
    return f"{len(wanting)} skipped for want of {', '.join(sorted(set(wanting)))}; CI=true makes each a failure"
