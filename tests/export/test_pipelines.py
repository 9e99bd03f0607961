"""The pipelines for GitHub and GitLab: stores beside the tests, secrets by reference, stages, rollback, odd texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from passerelle.export import github, gitlab
from passerelle.export.checkers import GITHUB, GITLAB
from passerelle.export.pipeline import DEPLOY, STAGES, Project
from tests.export.serving import deployed, lost

PROJECT = Project("3.12", "pip install -e .[test]", "make test")
SERVICES = {"u": {"targets": ["http://127.0.0.1:5000"]}}
ROUTES = [{"path": "/{rest*}", "service": "u"}]
ODD = "echo \"${{ secrets.A }}\" '$HOME' # yes: 0123\n\techo é"
GITHUB_CHECK = str(Path(sys.executable).parent / GITHUB.program)


def parts(environ: dict[str, str] | None = None, file: str = "gateway.yaml", **top: Any) -> Any:
    return deployed(json.dumps({"services": SERVICES, "routes": ROUTES, **top}), file, environ or {})


def of_github(project: Project = PROJECT, **top: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(github.export(parts(**top), project)[0])
    return document


def of_gitlab(project: Project = PROJECT, **top: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(gitlab.export(parts(**top), project)[0])
    return document


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_both_run_the_commands_of_the_project_and_check_the_file() -> None:
    assert commands(of_github()["jobs"]["check"]) == [PROJECT.install, "passerelle check gateway.yaml"]
    assert commands(of_github()["jobs"]["test"]) == [PROJECT.install, PROJECT.test]
    assert of_gitlab()["check"]["script"] == [PROJECT.install, "passerelle check gateway.yaml"]
    assert of_gitlab()["test"]["script"] == [PROJECT.install, PROJECT.test]


def test_stores_of_the_file_run_beside_the_tests() -> None:
    assert "services" not in of_github()["jobs"]["test"]
    assert "services" not in of_gitlab()["test"]
    top = {"redis": "redis://127.0.0.1", "services": {"u": {"app": "a:b", "env": {"U_DATABASE_URL": "x"}}}}
    test = of_github(**top)["jobs"]["test"]
    assert set(test["services"]) == {"redis", "postgres"}
    assert test["steps"][-1]["env"] == {
        "REDIS_URL": "redis://127.0.0.1:6379/0",
        "U_DATABASE_URL": "postgresql://postgres:test@127.0.0.1:5432/postgres",
    }
    both = of_github(environ={}, redis="${A_REDIS_URL:-off}")["jobs"]["test"]
    assert set(both["services"]) == {"redis"}
    assert both["steps"][-1]["env"] == {"A_REDIS_URL": "redis://127.0.0.1:6379/0"}
    test = of_gitlab(**top)["test"]
    assert [service["alias"] for service in test["services"]] == ["redis", "postgres"]
    assert test["variables"]["REDIS_URL"] == "redis://redis:6379/0"


def test_secrets_are_references_and_their_values_are_nowhere() -> None:
    top: dict[str, Any] = {
        "environ": {"TOKEN": "s3cret-0123456789-s3cret"},
        "admin": {"listen": "127.0.0.1:9900", "token": "${TOKEN}"},
    }
    assert of_github(**top)["jobs"]["check"]["steps"][-1]["env"] == {"TOKEN": "${{ secrets.TOKEN }}"}
    for target in (github, gitlab):
        assert "s3cret" not in target.export(parts(**top), PROJECT)[0]


def test_a_secret_that_github_cannot_have_is_a_loss() -> None:
    top: dict[str, Any] = {
        "environ": {"GITHUB_TOKEN_2": "0123456789abcdef0123"},
        "admin": {"listen": "127.0.0.1:9900", "token": "${GITHUB_TOKEN_2}"},
    }
    model = parts(**top)
    text, losses = github.export(model, PROJECT)
    assert lost(model, losses) == ["admin.token"]
    assert "GITHUB_TOKEN_2" not in text
    assert not gitlab.export(model, PROJECT)[1]


def test_stages_follow_each_other_and_the_image_has_its_provenance() -> None:
    jobs = of_github()["jobs"]
    assert [job for job in jobs if job in STAGES] == list(STAGES)
    for before, stage in zip(("image", *STAGES), STAGES, strict=False):
        assert set(jobs[stage]["needs"]) == {"image", before}
        assert jobs[stage]["environment"] == stage
        assert [step["env"]["STAGE"] for step in jobs[stage]["steps"] if step.get("run") == DEPLOY] == [stage]
    build = next(step for step in jobs["image"]["steps"] if step.get("id") == "build")
    assert build["with"]["provenance"] == "mode=max"
    assert build["with"]["sbom"] is True
    document = of_gitlab()
    assert "--provenance mode=max --sbom true" in "\n".join(document["build"]["script"])
    assert [document[stage]["needs"][-1] for stage in STAGES[1:]] == list(STAGES[:-1])


def test_a_rollback_follows_a_failed_stage_of_production_and_no_other_failure() -> None:
    rollback = of_github()["jobs"]["rollback"]
    assert rollback["needs"] == ["canary", "production"]
    assert "failure" in rollback["if"]
    assert "success" not in rollback["if"]
    document = of_gitlab()
    assert document["rollback"]["needs"] == ["canary", "production"]
    assert document["rollback"]["rules"][0]["when"] == "on_failure"
    assert document["rollback-to"]["rules"] == [{"if": "$ROLLBACK_TO"}]


@pytest.mark.parametrize("given", ["", "ghcr.io/a/b@sha256:1"])
def test_the_script_of_a_rollback_takes_the_given_image_or_the_one_in_service(given: str, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\necho "$*" >> docker.log\necho sha256:2\n')
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/run").write_text('#!/bin/sh\necho "$STAGE $IMAGE" > deployed\n')
    for name in ("docker", "deploy/run"):
        (tmp_path / name).chmod(0o755)
    script = commands(of_github()["jobs"]["rollback"])[0]
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_REPOSITORY": "A/Shop", "IMAGE": given}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environ, check=True)
    expected = given or "ghcr.io/a/shop@sha256:2"
    assert (tmp_path / "deployed").read_text() == f"production {expected}\n"
    log = (tmp_path / "docker.log").read_text()
    assert log.endswith(f"imagetools create --tag {expected.partition('@')[0]}:in-service {expected}\n")
    assert ("inspect" in log) is (not given)


def test_odd_texts_arrive_as_they_are() -> None:
    project = Project("3.12", ODD, ODD)
    job = of_gitlab(project)["check"]
    assert job["script"][0] == ODD
    found = commands(of_github(project)["jobs"]["check"])[0]
    assert found.replace("${{ '${{' }}", "${{") == ODD
    assert "${{ secrets.A" not in found
    document = of_github(project, file="it's a $(file).yaml")
    assert commands(document["jobs"]["check"])[1] == """passerelle check 'it'"'"'s a $(file).yaml'"""


@pytest.mark.parametrize("target", [github, gitlab])
def test_the_same_file_gives_the_same_bytes(target: Any) -> None:
    assert target.export(parts(), PROJECT) == target.export(parts(), PROJECT)


def test_a_wrong_workflow_is_refused() -> None:
    text = github.export(parts(), PROJECT)[0]
    assert GITHUB.run(GITHUB_CHECK, "a.yml", text) is None
    report = GITHUB.run(GITHUB_CHECK, "a.yml", text.replace("runs-on", "run-on"))
    assert report is not None
    assert "run-on" in report
    text = gitlab.export(parts(), PROJECT)[0]
    assert GITLAB.run(GITHUB_CHECK, "b.yml", text) is None
    assert GITLAB.run(GITHUB_CHECK, "b.yml", text.replace("\nbuild:", "\nimage:")) is not None
