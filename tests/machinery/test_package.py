"""The wheel and the source distribution are built, and installed into an environment that has nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import passerelle

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "SOURCE_DATE_EPOCH": "1700000000"}


def run(*command: str | Path, **environ: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**OFFLINE, **environ})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(ROOT / "scripts/package", sys.executable, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"passerelle-{passerelle.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    run(*PIP, "install", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


def sources() -> set[str]:
    """The files that the package must have."""
    found = subprocess.run(
        ["git", "-C", SOURCE, "ls-files", "--cached", "--others", "--exclude-standard", "."],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(found) > 200
    return {name for name in found if (SOURCE / name).exists()}


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        meta = archive.read(f"passerelle-{passerelle.__version__}.dist-info/METADATA").decode()
    assert names == sources()
    assert {"passerelle/py.typed", "passerelle/supervisor/dashboard/static/index.html"} <= names
    assert f"\nVersion: {passerelle.__version__}\n" in meta
    assert "License-File: LICENSE" in meta


@pytest.mark.long
def test_the_wheel_is_the_one_that_the_source_distribution_gives(built: Path, wheel: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    run("tar", "-xzf", archive, "-C", tmp_path)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, tmp_path / archive.name[: -len(".tar.gz")])
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.long
def test_the_installed_package_runs(installed: Path, tmp_path: Path) -> None:
    # The dependencies come from this environment; passerelle itself only from the clean one.
    script = f"""
import sys
sys.path[:0] = [{os.fspath(installed)!r}]
sys.path.append({sysconfig.get_path("purelib")!r})
import passerelle, passerelle.cli.main, passerelle.supervisor.dashboard.files as dashboard
assert passerelle.__file__.startswith({os.fspath(installed)!r}), passerelle.__file__
sys.argv[1:] = ["version"]
passerelle.cli.main.main()
"""
    (tmp_path / "run.py").write_text(script)
    found = run(sys.executable, "-I", "-S", tmp_path / "run.py")
    assert re.search(rf"^passerelle +{re.escape(passerelle.__version__)}$", found, re.MULTILINE)


def test_the_version_has_one_place() -> None:
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    found = subprocess.run(
        ["git", "-C", ROOT, "grep", "-lF", f'"{passerelle.__version__}"', "--", "src", "pyproject.toml", "scripts"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert found == ["src/passerelle/__init__.py"]


def test_a_tag_with_another_version_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/package", sys.executable, tmp_path, "v0.0.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"the package has version {passerelle.__version__}" in done.stderr
    assert list(tmp_path.iterdir()) == []
