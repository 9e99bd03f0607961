"""``passerelle check`` with plugins: it imports them in another process, and reports their place in the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.test_main import Run, run

__all__ = ["run"]

FILE = """plugins:
  a: {{guard: "{reference}"{more}}}
services:
  u: {{targets: ["http://127.0.0.1:1"]}}
routes:
  - {{path: /, service: u, plugins: a}}
"""
MODULE = """
import os, sys
from pydantic import BaseModel
print("printed by the module")

class Settings(BaseModel):
    limit: int

class Limited:
    Settings = Settings
    def __init__(self, settings): ...
    def __call__(self, request): ...

def check(request): ...
open("imported", "w").write(str(os.getpid()))
"""


def write(reference: str, more: str = "", module: str = MODULE) -> None:
    Path("gateway.yaml").write_text(FILE.format(reference=reference, more=more))
    Path("own_module_of_gateway.py").write_text(module)


def test_plugins_are_imported_in_another_process(run: Run) -> None:
    write("own_module_of_gateway:check")
    code, out, _ = run("check")
    assert (code, out) == (0, "gateway.yaml: ok (1 service, 1 route)\n")
    assert int(Path("imported").read_text()) != os.getpid()


@pytest.mark.parametrize(
    ("reference", "more", "module", "line"),
    [
        (
            "own_module_of_gateway:absent",
            "",
            MODULE,
            "2:14: plugins.a.guard: module 'own_module_of_gateway' has no attribute 'absent'",
        ),
        (
            "own_module_of_gateway:Limited",
            ", settings: {limit: many}",
            MODULE,
            "2:65: plugins.a.settings.limit: input should be a valid integer",
        ),
        ("own_module_of_gateway:check", "", "import os\nos._exit(1)\n", "1:1: plugins: the process that imports"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_an_error(
    run: Run, reference: str, more: str, module: str, line: str
) -> None:
    write(reference, more, module)
    code, out, _ = run("check")
    assert code == 1
    assert out.startswith(f"gateway.yaml:{line}"), out
    assert out.count("\n") == 1
    if module is MODULE and not more:
        assert run("check", "--elsewhere")[0] == 0, "the modules may be missing on this machine"
