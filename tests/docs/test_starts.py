"""The three starts are run from an empty folder: each command of the page, each file, each output that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Shell, blocks, free_ports

PAGES = ["flask", "fastapi", "django"]
TEN_MINUTES = 600.0

# No package index is reached. A new virtual environment imports the packages of this one, pip included, which takes a
# fifth of the time of installing pip.
PYTHON = f"""#!/bin/sh
[ "$*" = "-m venv .venv" ] || exec {sys._base_executable} "$@"
{sys._base_executable} -m venv --without-pip .venv
echo {sysconfig.get_path("purelib")} >"$(echo .venv/lib/python*/site-packages)/lent.pth"
printf '#!/bin/sh\\nexec "$(dirname "$0")/python" -m pip "$@"\\n' >.venv/bin/pip
chmod +x .venv/bin/pip
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what `pip install ../passerelle` needs, as it is in the working tree."""
    folder = tmp_path_factory.mktemp("origin") / "passerelle"
    folder.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, folder], check=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", os.fspath(folder)]
    for command in (["init", "--quiet"], ["add", "src", "*.*", "LICENSE"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who reaches no package index. What the page installs is taken from this environment."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(PYTHON)
    (programs / "python3").chmod(0o755)
    return {
        "HOME": os.fspath(tmp_path),
        "LANG": "C.UTF-8",
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "false",  # pip reads it as the value of "build isolation"
        "PIP_NO_COMPILE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_QUIET": "1",
    }


@pytest.fixture
def shell(tmp_path: Path, environ: dict[str, str], repository: Path) -> Iterator[Shell]:
    work = tmp_path / "work"
    work.mkdir()
    with Shell(work, environ, {"URL": os.fspath(repository), **free_ports("8080", "9900")}) as found:
        yield found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.needs("curl")
@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_start_does_what_the_page_shows(name: str, shell: Shell) -> None:
    began = time.monotonic()
    assert not list(shell.folder.iterdir())
    commands = 0
    for block in blocks(ROOT / f"docs/tutorial/{name}.md"):
        if block.name == "file" or block.is_run:
            if block.name == "file" and block.value == "gateway.yaml":
                # The page uses the default ports, which are not free on every machine.
                ports = "listen: 127.0.0.1:8080\nadmin: 127.0.0.1:9900\n"
                block = type(block)(block.page, block.line, block.language, ports + block.text, "file", block.value)
            commands += shell.run(block)
    assert commands > 15
    assert shell.stop() == 0
    assert time.monotonic() - began < TEN_MINUTES / len(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_start_marks_no_command_as_not_run(name: str) -> None:
    page = ROOT / f"docs/tutorial/{name}.md"
    assert [block.line for block in blocks(page) if block.name == "not run"] == []
    assert not re.search(r"^\$ ", re.sub(r"```console\n.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
