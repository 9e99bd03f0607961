"""``passerelle export``: losses with their places, files that are not overwritten, validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from passerelle.cli.main import main
from passerelle.export.checkers import Checker

Run = Callable[..., tuple[int, str, str]]

CONFIG = """\
services:
  user: {targets: ["http://127.0.0.1:5001"]}
routes:
  - {path: "/user/{user_id}", service: user}
"""
LOSSY = (
    CONFIG
    + """\
  - path: /api/{user_id}
    compose:
      user: {service: user, path: "/user/{user_id}"}
"""
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder with ``gateway.yaml``: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(CONFIG)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["export", *args])
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_loss_is_listed_with_its_place_and_nothing_is_exported(run: Run) -> None:
    Path("gateway.yaml").write_text(LOSSY)
    code, out, err = run("nginx", "--instead")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "gateway.yaml:6:5: routes[1].compose: lost: nginx joins no responses; the export responds 501",
        "nothing was exported; --accept-losses exports the rest",
    ]


def test_accepted_losses_are_listed_and_the_rest_is_exported(run: Run) -> None:
    Path("gateway.yaml").write_text(LOSSY)
    code, out, err = run("nginx", "--instead", "--accept-losses")
    assert code == 0
    assert "return 501;" in out
    assert "gateway.yaml:6:5: routes[1].compose: lost:" in err


def test_gateways_are_the_servers_of_one_upstream(run: Run) -> None:
    code, out, _ = run("nginx", "--gateways", "10.0.0.1:8080, [::1]:8080", "--listen", "0.0.0.0:8000")
    assert code == 0
    assert [line.strip() for line in out.splitlines() if "server " in line or "listen" in line] == [
        "server 10.0.0.1:8080;",
        "server [::1]:8080;",
        "server {",
        "listen 0.0.0.0:8000 default_server;",
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("nginx", "--gateways", "10.0.0.1"),
        ("nginx", "--gateways", "10.0.0.1:1", "--instead"),
        ("nginx", "--folder", "here"),
        ("systemd", "--program", "passerelle"),
        ("systemd", "--user", "a\nb"),
        ("systemd", "--folder", "/srv/a\nb"),
        ("compose",),
        ("nginx", "missing.yaml"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, args: tuple[str, ...]) -> None:
    code, out, err = run(*args)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_a_file_with_errors_is_not_exported(run: Run) -> None:
    Path("gateway.yaml").write_text(CONFIG.replace("service: user", "service: usr"))
    code, out, err = run("nginx")
    assert (code, out) == (1, "")
    assert err.startswith("gateway.yaml:4:")


def test_files_are_written_and_written_again(run: Run) -> None:
    for target, names in (
        ("nginx", ["nginx.conf"]),
        ("systemd", ["passerelle.service", "passerelle.socket"]),
        ("prometheus-rules", ["passerelle.rules.yml"]),
    ):
        expected = run(target)[1]
        for _ in range(2):
            assert run(target, "-o", "out") == (0, "", "".join(f"wrote out/{name}\n" for name in names))
        assert "".join(Path("out", name).read_text() for name in names) == expected
    assert len(os.listdir("out")) == 4


def test_a_foreign_file_is_replaced_with_force_only(run: Run) -> None:
    Path("nginx.conf").write_text("user me;\n")
    code, _, err = run("nginx", "-o", ".")
    assert (code, err) == (1, "nginx.conf exists and was not exported by passerelle; --force replaces it\n")
    assert Path("nginx.conf").read_text() == "user me;\n"
    assert run("nginx", "-o", ".", "--force")[0] == 0
    assert "passerelle" in Path("nginx.conf").read_text()


def test_a_folder_that_cannot_be_written_is_reported_on_one_line(run: Run) -> None:
    Path("out").write_text("")
    code, _, err = run("nginx", "-o", "out")
    assert code == 1
    assert err == "passerelle: cannot write out/nginx.conf: file exists\n"


@pytest.mark.needs("nginx")
def test_the_export_is_validated(run: Run, tmp_path: Path) -> None:
    code, out, err = run("nginx", "--check")
    assert (code, err) == (0, "nginx accepts nginx.conf\n")
    assert out.startswith("# Exported by passerelle from gateway.yaml")


@pytest.mark.needs("nginx")
def test_an_export_that_is_refused_is_not_written(run: Run, tmp_path: Path) -> None:
    Path("gateway.yaml").write_text("tls: {certificate: c.pem, key: k.pem}\n" + CONFIG)
    code, out, err = run("nginx", "--instead", "--check", "-o", "out")
    assert (code, out) == (1, "")
    assert "c.pem" in err
    assert err.endswith("nothing was exported: nginx refuses nginx.conf\n")
    assert not Path("out").exists()


def test_a_missing_program_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checker, "find", lambda self: None)
    code, out, err = run("prometheus-rules", "--check")
    assert (code, err) == (0, "not validated: promtool is not installed\n")
    assert out


CLUSTER = """\
services:
  user: {app: "users:app"}
routes:
  - {path: "/user/{user_id}", service: user}
"""


CLASS = ("--gateway-class", "eg")


class TestKubernetes:
    @pytest.fixture(autouse=True)
    def config(self, run: Run) -> None:
        Path("gateway.yaml").write_text(CLUSTER)

    def test_a_folder_has_the_base_and_overlays(self, run: Run) -> None:
        Path("gateway.yaml").write_text(CLUSTER + "backup: {databases: {users: 'postgresql://u@10.0.0.3/users'}}\n")
        code, out, err = run(
            "kubernetes", *CLASS, "-o", "deploy", "--check", "--namespace", "shop", "--backup", "17 3 * * *"
        )
        assert (code, out) == (0, "")
        assert "accept the manifests" in err
        assert sorted(path.name for path in Path("deploy", "base").iterdir()) == [
            *("backup.yaml", "gateway-backup-config.yaml", "gateway-config.yaml", "gateway.yaml", "kustomization.yaml"),
            *("namespace.yaml", "route.yaml", "service-user.yaml"),
        ]
        assert sorted(path.name for path in Path("deploy", "overlays").iterdir()) == ["production", "staging"]

    def test_overlays_are_kept_and_the_rest_is_replaced(self, run: Run) -> None:
        run("kubernetes", *CLASS, "-o", "deploy")
        overlay = Path("deploy/overlays/staging/kustomization.yaml")
        overlay.write_text(overlay.read_text() + "# mine\n")
        Path("gateway.yaml").write_text(CLUSTER + "workers: 2\n")
        code, _, err = run("kubernetes", *CLASS, "-o", "deploy")
        assert (code, f"kept {overlay}" in err.splitlines()) == (0, True)
        assert "# mine" in overlay.read_text()
        assert "workers: 2" in Path("deploy/base/gateway-config.yaml").read_text()
        run("kubernetes", *CLASS, "-o", "deploy", "--force")
        assert "# mine" not in overlay.read_text()

    def test_a_foreign_file_is_not_replaced_and_nothing_is_written(self, run: Run) -> None:
        Path("deploy/base").mkdir(parents=True)
        Path("deploy/base/route.yaml").write_text("kind: Mine\n")
        code, _, err = run("kubernetes", *CLASS, "-o", "deploy")
        assert code == 1
        assert "was not exported by passerelle; --force replaces it" in err
        assert [path.name for path in Path("deploy/base").iterdir()] == ["route.yaml"]

    def test_without_a_folder_the_manifests_are_printed(self, run: Run) -> None:
        code, out, _ = run("kubernetes", *CLASS, "--gateways", "3")
        assert code == 0
        assert out.count("\nkind: Deployment\n") == 2 and "kind: Kustomization" not in out

    @pytest.mark.parametrize(
        "args",
        [
            ("--service-image", "gone=image"),
            ("--image", "Not An Image"),
            ("--migrate", "migrate"),
            ("--migrate", "user='open"),
            ("--migrate", "user="),
            ("--namespace", "Shop"),
            ("--backup", "at night"),
            ("--redis", "redis://:s3cret@redis:6379/0"),
            ("--redis", "http://redis"),
            ("--scale-by", "moon"),
            ("--gateways", "0"),
            ("--gateway-class", "Not A Class"),
        ],
    )
    def test_wrong_options_are_reported(self, run: Run, args: tuple[str, ...]) -> None:
        code, out, err = run("kubernetes", *CLASS, *args)
        assert (code, out) == (2, "")
        assert args[0] in err

    def test_a_class_of_the_gateway_or_an_ingress_must_be_given(self, run: Run) -> None:
        code, out, err = run("kubernetes")
        assert (code, out) == (2, "")
        assert "--gateway-class: none is given" in err and "kubectl get gatewayclass" in err
        code, out, _ = run("kubernetes", "--ingress", "traefik")
        assert code == 0
        assert "\nkind: Ingress\n" in out and "gatewayClassName" not in out


RUN = """\
services:
  user: {app: "users:app", instances: 2, env: {DATABASE_URL: ""}}
routes:
  - {path: "/user/{user_id}", service: user}
"""


def test_a_folder_for_compose_is_written_and_its_changes_are_listed(run: Run) -> None:
    Path("gateway.yaml").write_text(RUN)
    for _ in range(2):
        code, out, err = run(
            "compose", "-o", "out", "--migrate", "user=python3 -m migrate", "--port", "8000", "--check"
        )
        assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == "gateway.yaml:1:1: listen: in containers: added: 0.0.0.0:8080"
    assert "gateway.yaml:2:3: services.user: in containers: now targets: [dns+http://user:5000]" in lines
    assert "check-jsonschema accepts compose.yaml" in lines
    assert sorted(line for line in lines if line.startswith("wrote ")) == [
        *("wrote out/backup/gateway.yaml", "wrote out/compose.yaml", "wrote out/gateway/gateway.yaml"),
        *("wrote out/grafana/dashboards.yml", "wrote out/grafana/datasources.yml"),
        *("wrote out/grafana/passerelle.json", "wrote out/nginx/nginx.conf"),
        *("wrote out/otel-collector/config.yaml", "wrote out/prometheus/passerelle.rules.yml"),
        "wrote out/prometheus/prometheus.yml",
    ]
    assert '"8000:8080"' in Path("out", "compose.yaml").read_text()


def test_a_loss_of_compose_writes_nothing(run: Run) -> None:
    Path("gateway.yaml").write_text(RUN.replace("instances: 2", "instances: {min: 1, max: 2}"))
    code, out, err = run("compose", "-o", "out")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "gateway.yaml:2:48: services.user.instances.max: lost: Compose runs a fixed number of containers; "
        "the export has the smallest number",
        "nothing was exported; --accept-losses exports the rest",
    ]
    assert not Path("out").exists()
    assert run("compose", "-o", "out", "--accept-losses")[0] == 0


def test_the_configuration_itself_is_never_replaced(run: Run) -> None:
    Path("gateway").mkdir()
    Path("gateway", "gateway.yaml").write_text(RUN)
    code, out, err = run("compose", "gateway/gateway.yaml", "-o", ".", "--force")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        "passerelle export compose: gateway/gateway.yaml is the configuration itself"
    )
    assert Path("gateway", "gateway.yaml").read_text() == RUN
    assert sorted(os.listdir()) == ["gateway", "gateway.yaml"]


@pytest.mark.parametrize(
    "args",
    [
        ("--subnet", "10.0.0.0/25"),
        ("--subnet", "10.0.0.1/24"),
        ("--gateways", "0"),
        ("--port", "70000"),
        ("--database", "other=DATABASE_URL"),
        ("--database", "user=DATABASE-URL"),
        ("--migrate", "user"),
        ("--migrate", "user='"),
        ("--migrate", "other=true"),
    ],
)
def test_wrong_options_of_compose_are_one_line(run: Run, args: tuple[str, ...]) -> None:
    Path("gateway.yaml").write_text(RUN)
    code, out, err = run("compose", "-o", "out", *args)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert not Path("out").exists()


VERSIONS = """\
services:
  user: {versions: {v1: {app: "old:app"}, v2: {app: "new:app"}}}
routes:
  - {path: "/user/{user_id}", service: user}
"""


@pytest.mark.parametrize(
    "command", [("nginx",), ("haproxy",), ("compose", "-o", "out"), ("kubernetes", *CLASS, "-o", "out")]
)
def test_a_file_with_versions_is_not_exported(command: tuple[str, ...], run: Run) -> None:
    Path("gateway.yaml").write_text(VERSIONS)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "an export has one version of a service; found versions of: user" in err
    assert not Path("out").exists()
