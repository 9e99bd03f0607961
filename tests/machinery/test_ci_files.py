"""The files of GitHub and GitLab are valid, pin what they use, and call targets of the Makefile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
GITLAB = ROOT / ".gitlab-ci.yml"
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.gitlab-ci": [GITLAB],
    "vendor.dependabot": [ROOT / ".github/dependabot.yml"],
}


def validate(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Validate files with a schema that check-jsonschema brings."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--data-transform", "gitlab-ci"]
    if schema != "vendor.gitlab-ci":
        command = command[:-2]
    return subprocess.run([*command, *files], capture_output=True, text=True, timeout=60, check=False)


def steps(workflow: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load(workflow.read_text())
    return [step for job in document["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_files_are_valid(schema: str) -> None:
    done = validate(schema, *SCHEMAS[schema])
    assert done.returncode == 0, done.stdout


def test_a_wrong_key_is_found(tmp_path: Path) -> None:
    file = tmp_path / "ci.yml"
    file.write_text(WORKFLOWS[0].read_text().replace("timeout-minutes", "timeout-minuts"))
    assert validate("vendor.github-workflows", file).returncode == 1


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_name_their_release(workflow: Path) -> None:
    lines = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: (\./\S+$|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)", line), line


def test_one_action_has_one_commit() -> None:
    used = {match for file in WORKFLOWS for match in re.findall(r"uses: ([\w/-]+)@(\w+)", file.read_text())}
    assert len({name for name, _ in used}) == len(used)


def test_commands_are_targets_of_the_makefile_or_scripts_of_the_repository() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    gitlab = yaml.safe_load(GITLAB.read_text())
    commands = [step["run"] for file in WORKFLOWS for step in steps(file) if "run" in step]
    commands += [line for job in gitlab.values() if isinstance(job, dict) for line in job.get("script", ())]
    assert len(commands) > 5
    for command in commands:
        match = re.match(r"make (?:--\S+ )*([a-z-]+)", command)
        if match:
            assert match[1] in targets, command
        else:
            assert (ROOT / command.removeprefix("sudo ").split()[0]).exists(), command


def test_the_supported_versions_of_python_are_tested() -> None:
    found = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert ci["jobs"]["run"]["strategy"]["matrix"]["python"] == found
    assert yaml.safe_load(GITLAB.read_text())["test"]["parallel"]["matrix"] == [{"PYTHON": found}]


def test_only_the_job_that_publishes_may_publish_and_it_runs_no_code_of_the_repository() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release["permissions"] == {"contents": "read"}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    assert [step.get("run") for step in publish["steps"]] == [None, None]
    assert release["jobs"]["build"]["needs"] == "test"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
