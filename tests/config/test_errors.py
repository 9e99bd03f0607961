"""Every kind of error: its exact line, column and message, and no other error.

The cases are in ``errors.txt``: a name, the file, and the expected lines. ``<keys of a route>``
and the like stand there for all keys of that model, in order: a new key changes no case.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passerelle.config import Config, inspect_text
from passerelle.config.models.balance import POLICIES
from passerelle.config.models.cache import RouteCache
from passerelle.config.models.config import Route, Service
from passerelle.config.models.headers import SecurityHeaders
from passerelle.config.models.jwt import Jwt
from passerelle.config.models.limits import Limits

MODELS = {
    "the file": Config,
    "a service": Service,
    "a route": Route,
    "limits": Limits,
    "jwt": Jwt,
    "security_headers": SecurityHeaders,
    "cache of a route": RouteCache,
}
POLICY_NAMES = ", ".join(POLICIES)
_KEYS = re.compile(r"<keys of ([^>]+)>")
_CASE = re.compile(r"^=== (.+)\n((?:.*\n)*?)--- errors\n((?:.+\n)+)", re.MULTILINE)
CASES = _CASE.findall((Path(__file__).parent / "errors.txt").read_text("utf-8"))


def with_keys(line: str) -> str:
    """Replace ``<keys of …>`` by the keys of the model, and ``<policies>`` by the balancing policies."""
    return _KEYS.sub(lambda match: ", ".join(MODELS[match[1]].model_fields), line.replace("<policies>", POLICY_NAMES))


@pytest.mark.parametrize(("text", "expected"), [pytest.param(text, lines, id=name) for name, text, lines in CASES])
def test_errors_have_their_position_and_message(text: str, expected: str) -> None:
    report = inspect_text(text, environ={"HOSTS": "x", "W2": "1"})
    assert [str(problem) for problem in report.errors] == [
        f"gateway.yaml:{with_keys(line)}" for line in expected.splitlines()
    ]
    assert report.config is None
    assert report.warnings == ()


def test_each_model_occurs_in_a_case() -> None:
    assert {name for _, _, lines in CASES for name in _KEYS.findall(lines)} == MODELS.keys()


def test_every_case_is_read() -> None:
    assert len(CASES) == (Path(__file__).parent / "errors.txt").read_text("utf-8").count("=== ") > 80
