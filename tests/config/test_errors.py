"""Every kind of error: its exact line, column and message, and no other error.

The cases are in ``errors.txt``: a name, the file, and the expected lines. ``<policies>`` stands there for all balancing
policies.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passerelle.config import inspect_text
from passerelle.config.models.balance import POLICIES

POLICY_NAMES = ", ".join(POLICIES)
_CASE = re.compile(r"^=== (.+)\n((?:.*\n)*?)--- errors\n((?:.+\n)+)", re.MULTILINE)
CASES = _CASE.findall((Path(__file__).parent / "errors.txt").read_text("utf-8"))


def with_policies(line: str) -> str:
    """Replace ``<policies>`` by the balancing policies."""
    return line.replace("<policies>", POLICY_NAMES)


@pytest.mark.parametrize(("text", "expected"), [pytest.param(text, lines, id=name) for name, text, lines in CASES])
def test_errors_have_their_position_and_message(text: str, expected: str) -> None:
    report = inspect_text(text, environ={"HOSTS": "x", "W2": "1"})
    assert [str(problem) for problem in report.errors] == [
        f"gateway.yaml:{with_policies(line)}" for line in expected.splitlines()
    ]
    assert report.config is None
    assert report.warnings == ()


def test_every_case_is_read() -> None:
    assert len(CASES) == (Path(__file__).parent / "errors.txt").read_text("utf-8").count("=== ") > 80
