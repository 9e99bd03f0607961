"""A workflow of GitHub Actions for a project with this file: checks, tests, image, rollout in stages, rollback."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from passerelle.config.problems import Finding
from passerelle.export import pipeline
from passerelle.export.deployment import Deployment
from passerelle.export.pipeline import DEPLOY, STAGES, Project

# Each action is pinned by the commit of a release: a tag can be moved to other code.
ACTIONS = {
    "actions/attest": ("1e69f48acb82d1966a394da916b4c1698aa569d6", "v4.2.2"),
    "actions/checkout": ("3d3c42e5aac5ba805825da76410c181273ba90b1", "v7.0.1"),
    "actions/setup-python": ("5fda3b95a4ea91299a34e894583c3862153e4b97", "v7.0.0"),
    "docker/build-push-action": ("53b7df96c91f9c12dcc8a07bcb9ccacbed38856a", "v7.3.0"),
    "docker/login-action": ("4907a6ddec9925e35a0a9e82d7399ccc52663121", "v4.1.0"),
    "docker/setup-buildx-action": ("37fe631027851001ddb9b187196cc803df7f5f0e", "v4.3.0"),
}
_REGISTRY = "ghcr.io"
_RESERVED = "GITHUB_"  # no secret of a repository may begin with it
_MAIN = "github.event_name == 'push' && github.ref_name == github.event.repository.default_branch"
# What is in service is the image with this tag. It moves when a rollout has succeeded.
_IN_SERVICE = "in-service"
_NAME = f'echo "name={_REGISTRY}/${{GITHUB_REPOSITORY,,}}" >> "$GITHUB_OUTPUT"'  # names of images are in lower case
_PREVIOUS = f"""\
if [ -z "$IMAGE" ]; then
  name="{_REGISTRY}/${{GITHUB_REPOSITORY,,}}"
  IMAGE="$name@$(docker buildx imagetools inspect "$name:{_IN_SERVICE}" --format '{{{{.Manifest.Digest}}}}')"
fi
export IMAGE
STAGE={STAGES[-1]} {DEPLOY}
"""
_MARK = f'docker buildx imagetools create --tag "${{IMAGE%@*}}:{_IN_SERVICE}" "$IMAGE"'


def export(deployment: Deployment, project: Project) -> tuple[str, Sequence[Finding]]:
    """Return the workflow, and what is lost."""
    losses = list(pipeline.COVERAGE.losses(deployment.config))
    why = f"GitHub has no secrets whose names begin with {_RESERVED}; rename the variable"
    losses += [Finding(loc, why) for loc, names in deployment.references if any(map(_is_reserved, names))]
    text = pipeline.write(_workflow(deployment, project))
    for action, (commit, release) in ACTIONS.items():
        text = text.replace(f"uses: {action}@{commit}\n", f"uses: {action}@{commit} # {release}\n")
    return f"# {deployment.header}\n{text}", losses


def _is_reserved(name: str) -> bool:
    return name.startswith(_RESERVED)


def _workflow(deployment: Deployment, project: Project) -> dict[str, Any]:
    about = "An image to put into service (NAME@sha256:…) instead of building one"
    return {
        "name": "gateway",
        "on": {
            "push": {},
            "pull_request": {},
            "workflow_dispatch": {"inputs": {"image": {"description": about, "type": "string", "required": True}}},
        },
        "permissions": {"contents": "read"},
        "jobs": {
            "check": _check(deployment, project),
            "test": _test(deployment, project),
            "image": _image(),
            **_rollout(),
            "rollback": _rollback(),
        },
    }


def _use(action: str, **given: Any) -> dict[str, Any]:
    step: dict[str, Any] = {"uses": f"{action}@{ACTIONS[action][0]}"}
    return {**step, "with": {name.replace("_", "-"): value for name, value in given.items()}} if given else step


def _literal(text: str) -> str:
    """Write a text in which GitHub evaluates nothing."""
    return re.sub(r"\$\{\{", "${{ '${{' }}", text)


def _job(minutes: int, **keys: Any) -> dict[str, Any]:
    return {"runs-on": "ubuntu-24.04", "timeout-minutes": minutes, **keys}


def _prepared(project: Project) -> list[dict[str, Any]]:
    return [
        _use("actions/checkout", persist_credentials=False),
        _use("actions/setup-python", python_version=project.python),
        {"run": _literal(project.install)},
    ]


def _secrets(deployment: Deployment) -> dict[str, str]:
    return {name: f"${{{{ secrets.{name} }}}}" for name in deployment.variables if not _is_reserved(name)}


def _check(deployment: Deployment, project: Project) -> dict[str, Any]:
    command: dict[str, Any] = {"run": _literal(pipeline.check_command(deployment))}
    if secrets := _secrets(deployment):
        command["env"] = secrets
    return _job(10, **{"if": "!inputs.image"}, steps=[*_prepared(project), command])


def _test(deployment: Deployment, project: Project) -> dict[str, Any]:
    services: dict[str, Any] = {}
    if pipeline.redis_variables(deployment):
        services["redis"] = _service(pipeline.REDIS_IMAGE, "6379:6379", "redis-cli ping")
    if pipeline.databases(deployment):
        postgres = _service(pipeline.POSTGRES_IMAGE, "5432:5432", "pg_isready")
        services["postgres"] = {**postgres, "env": pipeline.postgres_variables()}
    environ = {**_secrets(deployment), **pipeline.test_variables(deployment, "127.0.0.1", "127.0.0.1")}
    command: dict[str, Any] = {"run": _literal(project.test)}
    if environ:
        command["env"] = environ
    keys = {"services": services} if services else {}
    return _job(30, **{"if": "!inputs.image"}, **keys, steps=[*_prepared(project), command])


def _service(image: str, port: str, probe: str) -> dict[str, Any]:
    options = f'--health-cmd "{probe}" --health-interval 2s --health-timeout 2s --health-retries 30'
    return {"image": image, "ports": [port], "options": options}


def _login() -> dict[str, Any]:
    return _use(
        "docker/login-action",
        registry=_REGISTRY,
        username="${{ github.actor }}",
        password="${{ secrets.GITHUB_TOKEN }}",  # noqa: S106 - a reference
    )


def _image() -> dict[str, Any]:
    build = _use(
        "docker/build-push-action",
        context=".",
        push=True,
        tags="${{ steps.image.outputs.name }}:${{ github.sha }}",
        provenance="mode=max",
        sbom=True,
    )
    attest = _use(
        "actions/attest",
        subject_name="${{ steps.image.outputs.name }}",
        subject_digest="${{ steps.build.outputs.digest }}",
        push_to_registry=True,
    )
    return _job(
        30,
        **{"if": _MAIN},
        needs=["check", "test"],
        permissions={"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
        outputs={"image": "${{ steps.image.outputs.name }}@${{ steps.build.outputs.digest }}"},
        steps=[
            _use("actions/checkout", persist_credentials=False),
            {"id": "image", "run": _NAME},
            _use("docker/setup-buildx-action"),
            _login(),
            {"id": "build", **build},
            attest,
        ],
    )


def _rollout() -> dict[str, Any]:
    """One job for each stage, one after the other. The last one marks the image as the one in service."""
    jobs: dict[str, Any] = {}
    before = "image"
    for stage in STAGES:
        steps: list[dict[str, Any]] = [
            _use("actions/checkout", persist_credentials=False),
            {"run": DEPLOY, "env": {"STAGE": stage, "IMAGE": "${{ needs.image.outputs.image }}"}},
        ]
        keys: dict[str, Any] = {}
        if stage == STAGES[-1]:
            steps += [_login(), {"run": _MARK, "env": {"IMAGE": "${{ needs.image.outputs.image }}"}}]
            keys["permissions"] = {"contents": "read", "packages": "write"}
        jobs[stage] = _job(
            30,
            needs=sorted({"image", before}),
            environment=stage,
            concurrency={"group": "rollout", "cancel-in-progress": False},
            **keys,
            steps=steps,
        )
        before = stage
    return jobs


def _rollback() -> dict[str, Any]:
    """After a failure in production or by hand: put the image before, or the given one, into service."""
    failed = " || ".join(f"needs.{stage}.result == 'failure'" for stage in STAGES[1:])
    return _job(
        30,
        **{"if": f"always() && (inputs.image != '' || {failed})"},
        needs=list(STAGES[1:]),
        environment=STAGES[-1],
        permissions={"contents": "read", "packages": "write"},
        steps=[
            _use("actions/checkout", persist_credentials=False),
            _login(),
            {"run": _PREVIOUS + _MARK, "env": {"IMAGE": "${{ inputs.image }}"}},
        ],
    )
