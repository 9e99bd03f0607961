"""Every kind of error, each at its exact line and column, in its exact words, and nothing beside it.

The cases are in ``errors.txt``: a name, the file, and the lines that are to be printed for it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passerelle.config import inspect_text

_CASE = re.compile(r"^=== (.+)\n((?:.*\n)*?)--- errors\n((?:.+\n)+)", re.MULTILINE)
CASES = _CASE.findall((Path(__file__).parent / "errors.txt").read_text("utf-8"))


@pytest.mark.parametrize(("text", "expected"), [pytest.param(text, said, id=name) for name, text, said in CASES])
def test_errors_say_where_and_what_and_what_instead(text: str, expected: str) -> None:
    report = inspect_text(text, environ={"HOSTS": "x", "W2": "1"})
    assert [str(problem) for problem in report.errors] == [f"gateway.yaml:{line}" for line in expected.splitlines()]
    assert report.config is None
    assert report.warnings == ()


def test_every_case_is_read() -> None:
    assert len(CASES) == (Path(__file__).parent / "errors.txt").read_text("utf-8").count("=== ") > 80
