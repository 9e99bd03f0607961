"""The exports of all examples, byte for byte.

With ``GOLDEN=write`` in the environment, the files are written instead of compared: read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from passerelle.cli.export import export
from passerelle.export import compose, github, gitlab, haproxy, prometheus_rules, systemd
from passerelle.export.checkers import (
    COMPOSE_SPEC,
    GITHUB,
    GITLAB,
    HAPROXY,
    NGINX,
    PROMTOOL,
    SYSTEMD_ANALYZE,
    Checker,
)
from passerelle.export.deployment import Deployment
from passerelle.export.pipeline import Project
from tests.export.serving import EXAMPLES, deployed, in_front, in_kubernetes, in_place
from tests.requirements import program

FOLDER = Path(__file__).parent / "golden"
FILES = {
    "shop": EXAMPLES / "shop" / "gateway.yaml",
    "shop-secure": EXAMPLES / "shop" / "gateway-secure.yaml",
    "balancers": EXAMPLES / "balancers" / "gateway.yaml",
}


def manifests(deployment: Deployment) -> str:
    """Return all files of the export to Kubernetes, each after its path."""
    migrations = {"user": ("python3", "-m", "shopkit.prepare", "users")} if "shop" in deployment.file else {}
    redis = "redis://redis:6379/0" if deployment.config.sessions is not None else None
    files, _ = in_kubernetes(deployment, namespace="shop", backup="17 3 * * *", migrations=migrations, redis=redis)
    return "".join(f"=== {name}\n{text}" for name, text in files.items())


TARGETS = {
    "nginx": {"front.conf", "place.conf"},
    "haproxy": {"haproxy.cfg"},
    "systemd": {"service", "socket"},
    "prometheus-rules": {"rules.yml"},
    "kubernetes": {"kubernetes.txt"},
    "github": {"github.yml"},
    "gitlab": {"gitlab.yml"},
}
PROJECT = Project("3.13", "pip install -r requirements.txt", "python -m pytest")
NAMES = {
    "front.conf": lambda deployment: in_front(deployment)[0],
    "place.conf": lambda deployment: in_place(deployment)[0],
    "service": lambda deployment: systemd.export(deployment, "/usr/local/bin/passerelle", "passerelle")[0],
    "socket": lambda deployment: systemd.socket_unit(deployment) or "",
    "rules.yml": lambda deployment: prometheus_rules.export(deployment)[0],
    "kubernetes.txt": manifests,
    "haproxy.cfg": lambda deployment: haproxy.export(deployment, (), None)[0],
    "github.yml": lambda deployment: github.export(deployment, PROJECT)[0],
    "gitlab.yml": lambda deployment: gitlab.export(deployment, PROJECT)[0],
}
CHECKERS: dict[str, Checker] = {
    "front.conf": NGINX,
    "place.conf": NGINX,
    "service": SYSTEMD_ANALYZE,
    "rules.yml": PROMTOOL,
    "haproxy.cfg": HAPROXY,
    "github.yml": GITHUB,
    "gitlab.yml": GITLAB,
}

# The file of the shop does not name its databases: the services read their URLs from the environment.
DATABASES = {"user": "USERS_DATABASE_URL", "product": "PRODUCTS_DATABASE_URL"}
MIGRATIONS = {service: ("python3", "-m", "shopkit.prepare", f"{service}s") for service in DATABASES}
CONTAINERS = {
    "shop": compose.Options(databases=DATABASES, migrations=MIGRATIONS),
    "shop-secure": compose.Options(databases=DATABASES, migrations=MIGRATIONS, gateways=3),
    "balancers": compose.Options(),
}


def model(example: str) -> Deployment:
    return deployed(FILES[example].read_text(), os.fspath(FILES[example]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("example", FILES)
def test_the_export_of_an_example_is_the_golden_file(example: str, name: str) -> None:
    text = NAMES[name](model(example))
    file = FOLDER / f"{example}.{name}"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()
    assert text == NAMES[name](model(example))


@pytest.mark.parametrize("example", FILES)
def test_the_containers_of_an_example_are_the_golden_folder(example: str) -> None:
    files = containers(example)
    for name, text in files.items():
        file = FOLDER / f"{example}.compose" / name
        if os.environ.get("GOLDEN") == "write":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert text == file.read_text()
    assert files == containers(example)


def containers(example: str) -> dict[str, str]:
    """Return the folder for Compose, with one text for what was changed and lost. The rules have golden files above."""
    deployment = model(example)
    folder = compose.export(deployment, CONTAINERS[example])
    report = [f"lost: {deployment.locate(finding)}" for finding in folder.losses]
    report += [str(deployment.locate(finding)) for finding in folder.changes]
    assert folder.reads_back()
    lines = "\n".join(line.replace(f"{FILES[example].parent}/", "") for line in report)
    return {**folder.files, "report.txt": lines + "\n"}


def test_every_example_and_every_target_has_golden_files() -> None:
    configurations = {
        path
        for path in EXAMPLES.rglob("*.yaml")
        if not {"openapi", "plugins"} & set(path.parts)  # the latter needs an image with its modules
        and not {"services", "routes"} - yaml.safe_load(path.read_text()).keys()
    }
    assert configurations == set(FILES.values())
    assert CONTAINERS.keys() == FILES.keys()
    targets = {target for file in NAMES for target in TARGETS if file in TARGETS[target]}
    assert targets | {"compose"} == export.commands.keys()
    assert {file for files in TARGETS.values() for file in files} == NAMES.keys()


def test_no_golden_file_is_left_over() -> None:
    single = {f"{e}.{n}" for e in FILES for n in NAMES}
    assert {file.name for file in FOLDER.iterdir()} == single | {f"{e}.compose" for e in FILES}
    for example in FILES:
        folder = FOLDER / f"{example}.compose"
        found = {os.fspath(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert found == containers(example).keys()


@pytest.mark.long
def test_the_schema_of_compose_accepts_the_exports() -> None:
    checker = COMPOSE_SPEC.find()
    assert checker is not None
    for example in FILES:
        text = (FOLDER / f"{example}.compose" / "compose.yaml").read_text()
        assert COMPOSE_SPEC.run(checker, "compose.yaml", text) is None
    report = COMPOSE_SPEC.run(checker, "compose.yaml", text.replace("read_only:", "readonly:"))
    assert report is not None
    assert "readonly" in report


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", ["front.conf", "place.conf"])
@pytest.mark.parametrize("example", FILES)
def test_nginx_accepts_the_export(example: str, name: str) -> None:
    assert NGINX.run(program("nginx"), "nginx.conf", (FOLDER / f"{example}.{name}").read_text()) is None


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("example", FILES)
def test_nginx_accepts_the_file_of_its_container(example: str) -> None:
    text = (FOLDER / f"{example}.compose" / "nginx" / "nginx.conf").read_text()
    assert NGINX.run(program("nginx"), "nginx.conf", text) is None


@pytest.mark.parametrize("name", ["service", "rules.yml", "haproxy.cfg", "github.yml", "gitlab.yml"])
@pytest.mark.parametrize("example", FILES)
def test_the_program_of_the_target_accepts_the_export_if_it_is_installed(example: str, name: str) -> None:
    checker = CHECKERS[name]
    found = checker.find()
    text = (FOLDER / f"{example}.{name}").read_text()
    assert yaml.safe_load(text) if name.endswith(".yml") else text.startswith("# Exported by passerelle")
    if found is not None:
        names = {"service": "passerelle.service", "rules.yml": "passerelle.rules.yml"}
        assert checker.run(found, names.get(name, name), text) is None
