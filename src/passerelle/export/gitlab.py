"""A pipeline of GitLab for a project with this file: checks, tests, image, rollout in stages, rollback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from passerelle.config.problems import Finding
from passerelle.export import pipeline
from passerelle.export.deployment import Deployment
from passerelle.export.pipeline import DEPLOY, STAGES, Project

_MAIN = "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"
_GIVEN = "$ROLLBACK_TO"
_IN_SERVICE = "in-service"
_LOGIN = 'echo "$CI_REGISTRY_PASSWORD" | docker login --username "$CI_REGISTRY_USER" --password-stdin "$CI_REGISTRY"'
_BUILD = (
    "docker buildx build --push --provenance mode=max --sbom true "
    '--tag "$CI_REGISTRY_IMAGE:$CI_COMMIT_SHA" --metadata-file build.json .'
)
_DIGEST = 'digest=$(sed -n \'s/.*"containerimage.digest": *"\\([^"]*\\)".*/\\1/p\' build.json)'
_OUTPUT = 'echo "IMAGE=$CI_REGISTRY_IMAGE@$digest" > image.env'
_MARK = f'docker buildx imagetools create --tag "$CI_REGISTRY_IMAGE:{_IN_SERVICE}" "$IMAGE"'
_PREVIOUS = (
    f'digest=$(docker buildx imagetools inspect "$CI_REGISTRY_IMAGE:{_IN_SERVICE}" '
    "--format '{{.Manifest.Digest}}')"
)


def export(deployment: Deployment, project: Project) -> tuple[str, Sequence[Finding]]:
    """Return the pipeline, and what is lost."""
    losses = list(pipeline.COVERAGE.losses(deployment.config))
    return f"# {deployment.header}\n{pipeline.write(_document(deployment, project))}", losses


def _document(deployment: Deployment, project: Project) -> dict[str, Any]:
    document: dict[str, Any] = {
        "stages": ["check", "build", *STAGES, "rollback"],
        "default": {"image": f"python:{project.python}-slim"},
        "check": _job(
            "check", 10, [{"if": f"{_GIVEN} == null"}], script=[project.install, pipeline.check_command(deployment)]
        ),
        "test": _test(deployment, project),
        "build": _build(),  # "image" is a key of GitLab
    }
    for stage in STAGES:
        document[stage] = _stage(stage)
    failed = [{"if": f"{_MAIN} && {_GIVEN} == null", "when": "on_failure"}]
    previous = [_PREVIOUS, 'export IMAGE="$CI_REGISTRY_IMAGE@$digest"']
    document["rollback"] = {**_rollback(previous, failed), "needs": list(STAGES[1:])}
    document["rollback-to"] = _rollback([f'export IMAGE="{_GIVEN}"'], [{"if": _GIVEN}])
    return document


def _job(stage: str, minutes: int, rules: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    return {"stage": stage, "timeout": f"{minutes} minutes", "rules": rules, **keys}


def _docker(stage: str, rules: list[dict[str, Any]], script: list[str], **keys: Any) -> dict[str, Any]:
    return _job(
        stage,
        30,
        rules,
        image="docker:29",
        services=[{"name": "docker:29-dind", "alias": "docker"}],
        variables={"DOCKER_TLS_CERTDIR": "/certs"},
        **keys,
        script=[_LOGIN, *script],
    )


def _test(deployment: Deployment, project: Project) -> dict[str, Any]:
    services: list[dict[str, Any]] = []
    if pipeline.redis_variables(deployment):
        services.append({"name": pipeline.REDIS_IMAGE, "alias": "redis"})
    if pipeline.databases(deployment):
        variables = pipeline.postgres_variables()
        services.append({"name": pipeline.POSTGRES_IMAGE, "alias": "postgres", "variables": variables})
    keys: dict[str, Any] = {"services": services} if services else {}
    if environ := pipeline.test_variables(deployment, "redis", "postgres"):
        keys["variables"] = environ
    return _job("check", 30, [{"if": f"{_GIVEN} == null"}], **keys, script=[project.install, project.test])


def _build() -> dict[str, Any]:
    return _docker(
        "build",
        [{"if": f"{_MAIN} && {_GIVEN} == null"}],
        # Attestations need a builder in a container.
        ["docker context create builder", "docker buildx create --use builder", _BUILD, _DIGEST, _OUTPUT],
        artifacts={"reports": {"dotenv": "image.env"}},
    )


def _stage(stage: str) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "environment": {"name": stage},
        "resource_group": "rollout",
        "needs": [
            {"job": "build", "artifacts": True},
            *([STAGES[STAGES.index(stage) - 1]] if stage != "staging" else []),
        ],
    }
    rule: dict[str, Any] = {"if": f"{_MAIN} && {_GIVEN} == null"}
    if stage != STAGES[-1]:
        return _job(stage, 30, [rule], **keys, script=[f"STAGE={stage} {DEPLOY}"])
    return _docker(stage, [rule], [f"STAGE={stage} {DEPLOY}", _MARK], **keys)


def _rollback(image: list[str], rules: list[dict[str, Any]]) -> dict[str, Any]:
    keys = {"environment": {"name": STAGES[-1]}, "resource_group": "rollout"}
    return _docker("rollback", rules, [*image, f"STAGE={STAGES[-1]} {DEPLOY}", _MARK], **keys)
