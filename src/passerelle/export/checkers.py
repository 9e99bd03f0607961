"""Validate an export with the program that it is for, if that is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passerelle.export.nginx_writer import CACHE_FOLDER

_SECONDS = 60.0  # for one check
# Not in the path of ordinary users, or of a virtual environment that is not activated.
_FOLDERS = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/sbin", os.path.dirname(sys.executable)))


@dataclass(frozen=True, slots=True)
class Checker:
    """A program that validates a file. ``command`` returns its arguments for the file and a scratch folder."""

    program: str
    command: Callable[[Path, Path], list[str]]
    prepare: Callable[[str, Path], str] = lambda text, folder: text

    def find(self) -> str | None:
        """Return the path of the program, or None if it is not installed."""
        return shutil.which(self.program) or shutil.which(self.program, path=_FOLDERS)

    def run(self, found: str, name: str, text: str) -> str | None:
        """Check ``text`` with the program at ``found``. Return what the program reports if it refuses it."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            file = folder / name
            file.write_text(self.prepare(text, folder), encoding="utf-8")
            try:
                done = subprocess.run(  # noqa: S603 - the program of the target, with fixed arguments
                    [found, *self.command(file, folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"{self.program} did not finish within {_SECONDS:g} s"
            report = done.stdout.decode("utf-8", "replace").strip().replace(f"{folder}/", "")
            return (report or f"{self.program} ended with {done.returncode}") if done.returncode else None


NGINX = Checker(
    "nginx",
    lambda file, folder: ["-t", "-q", "-p", str(folder), "-c", str(file), "-g", f"pid {folder}/pid;", "-e", "stderr"],
    # The folder of stored responses is created by the check, too.
    lambda text, folder: text.replace(CACHE_FOLDER, f"{folder}/cache"),
)
HAPROXY = Checker("haproxy", lambda file, folder: ["-c", "-q", "-f", str(file)])
PROMTOOL = Checker("promtool", lambda file, folder: ["check", "rules", str(file)])
COMPOSE_SPEC = Checker("check-jsonschema", lambda file, folder: ["--builtin-schema", "vendor.compose-spec", str(file)])
SYSTEMD_ANALYZE = Checker(
    "systemd-analyze",
    lambda file, folder: ["verify", "--recursive-errors=no", str(file)],
    # The unit may be for another machine, so the command need not exist on this one.
    lambda text, folder: re.sub(r'^(Exec\w+=)(?:"[^"]*"|\S+)', r"\1/bin/true", text, flags=re.MULTILINE),
)
GITHUB = Checker("check-jsonschema", lambda file, folder: ["--builtin-schema", "vendor.github-workflows", str(file)])
GITLAB = Checker(
    "check-jsonschema",
    lambda file, folder: ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", str(file)],
)
