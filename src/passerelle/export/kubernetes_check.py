"""Checks of an export to Kubernetes, without a cluster and without a network.

Each resource must be of a kind that the export has, without unknown keys; what resources refer to must exist; and the
gateway must accept its file. ``kubernetes_schemas.json`` is made by ``scripts/kubernetes_schemas.py``.
"""

from __future__ import annotations

import functools
import json
import os
import posixpath
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from passerelle.config import inspect_text
from passerelle.export.json_schema import problems as problems_of
from passerelle.export.kubernetes_file import SECRETS_FOLDER, ClusterFile

_SECONDS = 60.0  # for one call of kubectl


@functools.cache
def schemas() -> dict[str, Any]:
    """Return the schemas of resources by "apiVersion kind", and their definitions."""
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath("kubernetes_schemas.json").read_text())
    return found


def resource_problems(resource: object) -> Iterator[str]:
    """Yield what is wrong with a resource. One of an unknown kind is wrong."""
    if not isinstance(resource, dict):
        yield "found no resource"
        return
    kind = f"{resource.get('apiVersion')} {resource.get('kind')}"
    known = schemas()
    if kind not in known["kinds"]:
        yield f"there is no schema of {kind}"
        return
    yield from problems_of(resource, known["kinds"][kind], known["$defs"])


def problems(files: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the files of an export, each with the name of its file."""
    found: list[dict[str, Any]] = []
    for name, text in files.items():
        if posixpath.basename(name) == "kustomization.yaml":
            yield from (f"{name}: {problem}" for problem in _kustomization(name, next(_documents(text)), files))
            continue
        for resource in _documents(text):
            label = f"{resource.get('kind')} {resource.get('metadata', {}).get('name')}"
            yield from (f"{name}: {label}{problem}" for problem in resource_problems(resource))
            found.append(resource)
    yield from _references(found)


def _kustomization(name: str, document: dict[str, Any], files: Mapping[str, str]) -> Iterator[str]:
    yield from (problem for problem in resource_problems(document))
    folder = posixpath.dirname(name)
    for key in ("resources", "components"):
        for item in document.get(key, ()):
            path = posixpath.normpath(posixpath.join(folder, item))
            if path not in files and f"{path}/kustomization.yaml" not in files:
                yield f"{key}: there is no {item}"


def _references(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield references to resources, pods and ports that do not exist, and names that occur twice."""
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in found]
    yield from (
        f"{kind} {name} occurs twice" for kind, name in sorted({each for each in names if names.count(each) > 1})
    )
    pods = [resource["spec"]["template"] for resource in found if resource["kind"] in ("Deployment", "Job")]
    for resource in found:
        spec, kind, label = resource.get("spec", {}), resource["kind"], resource["metadata"]["name"]
        selector = spec.get("selector") or spec.get("podSelector") or {}
        wanted = selector.get("matchLabels", selector if kind == "Service" else {})
        if kind == "ServiceMonitor":
            matching: list[Any] = [each for each in found if each["kind"] == "Service" and _has(each, wanted)]
        else:
            matching = [pod for pod in pods if _has(pod, wanted)]
        if wanted and not matching:
            yield f"{kind} {label} selects nothing"
        if kind == "Service":
            ports = {port["name"] for pod in matching for each in pod["spec"]["containers"] for port in each["ports"]}
            for port in spec["ports"]:
                if port["targetPort"] not in ports:
                    yield f"{kind} {label}: no pod has the port {port['targetPort']}"
        if kind == "HorizontalPodAutoscaler" and ("Deployment", spec["scaleTargetRef"]["name"]) not in names:
            yield f"{kind} {label}: there is no such Deployment"


def _documents(text: str | bytes) -> Iterator[Any]:
    yield from yaml.load_all(text, Loader=yaml.CSafeLoader)


def _has(resource: dict[str, Any], labels: Mapping[str, str]) -> bool:
    return bool(labels.items() <= resource["metadata"]["labels"].items())


def gateway_problems(file: ClusterFile, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield why passerelle would refuse a file of the export. Secrets that this machine has are used for it."""
    with tempfile.TemporaryDirectory() as folder:
        for secret in file.secrets:
            value = secret.value()
            path = Path(folder, secret.key)
            path.touch(mode=0o600)
            path.write_text("" if value is None else value, encoding="utf-8")
        text = file.text.replace(f"{SECRETS_FOLDER}/", f"{folder}/")
        report = inspect_text(text, "gateway.yaml", environ, folder, elsewhere=True)
        for problem in report.errors:
            yield f"{file.config}: gateway.yaml:{problem.line}:{problem.column}: {problem.key}: {problem.message}"


def kustomize_problems(files: Mapping[str, str]) -> Iterator[str] | None:
    """Build each overlay with kubectl. Returns None if it is not installed."""
    program = shutil.which("kubectl")
    return None if program is None else _kustomize(program, files)


def _kustomize(program: str, files: Mapping[str, str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for overlay in sorted(name for name in files if name.startswith("overlays/")):
            done = subprocess.run(  # noqa: S603 - a program with fixed arguments
                [program, "kustomize", os.path.dirname(os.path.join(folder, overlay))],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
            if done.returncode:
                yield f"{overlay}: {done.stderr.decode('utf-8', 'replace').strip().replace(folder, '')}"
                continue
            for resource in _documents(done.stdout):
                label = f"{resource.get('kind')} {resource.get('metadata', {}).get('name')}"
                yield from (f"{overlay}: {label}{problem}" for problem in resource_problems(resource))
