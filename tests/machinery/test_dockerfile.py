"""The Dockerfile: hadolint has nothing to say, packages have hashes, and what runs has no root."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage, with continued lines joined."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        if match := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            found[match[1]] = []
        elif found:
            found[next(reversed(found))].append(re.sub(r"\s+", " ", line))
    return found


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_package_comes_from_a_lock_file_with_hashes() -> None:
    installs = [
        part for words in stages().values() for line in words for part in line.split("&&") if "pip install" in part
    ]
    assert len(installs) == 5
    own = [part for part in installs if "--require-hashes" not in part]
    assert len(own) == 1
    assert "--no-deps --no-build-isolation --target /own ." in own[0]
    for lock in re.findall(r"requirements-\w+\.lock", TEXT):
        assert "--hash=sha256:" in (ROOT / lock).read_text()


def test_images_that_run_have_no_root_and_a_health_check() -> None:
    found = stages()
    assert set(found) == {"build", "build-services", "build-backup", "gateway", "services", "backup"}
    for name in ("gateway", "backup"):
        assert "USER 10001:10001" in found[name]
        assert [line for line in found[name] if line.startswith("HEALTHCHECK")]
        assert "ENTRYPOINT []" in found[name]
    assert not [line for line in found["services"] if line.startswith("USER")]  # that of gateways
    assert [name for name, lines in found.items() if any("apt-get" in line for line in lines)] == ["backup"]


def test_the_context_has_what_is_copied_and_little_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == {
        *("LICENSE", "README.md", "pyproject.toml", "src", "requirements-build.lock", "requirements-image.lock"),
        *("requirements-backup.lock", "${APP}", "${LOCK}"),
    }
    assert allowed == {"LICENSE", "README.md", "examples", "pyproject.toml", "requirements-*.lock", "src"}
