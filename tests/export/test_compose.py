"""The folder for Compose: every container has few rights, values and names arrive, secrets are files."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.config import inspect_text
from passerelle.export import compose
from passerelle.export.deployment import Deployment
from passerelle.observability.prometheus import METRICS
from passerelle.system import ports
from tests.export.containers import MINIMAL, exported, in_container, read, secret_text, services
from tests.export.serving import EXAMPLES, deployed, deployment_of, lost
from tests.requirements import needs, program
from tests.support.wire import DEADLINE, wait_until

ROUTES = [{"path": "/{rest*}", "service": "u"}]
WORDS = [
    *("yes", "no", "on", "null", "~", "true", "0123", "0o17", "1e3", "1_000", "12:30", ".5", "", " a ", "- a", "a: b"),
    *(
        "#x",
        "a #b",
        "$",
        "$$",
        "$HOME",
        "${",
        "'",
        '"',
        "\"'",
        "\\n",
        "line\nbreak",
        "tab\t",
        "é",
        "{port",
        "%",
        "=",
        "*a",
    ),
]


def folder_of(local: dict[str, Any], options: dict[str, Any] | None = None, **top: Any) -> compose.Folder:
    return exported(deployment_of({"u": local}, ROUTES, **top), **(options or {}))


def test_every_container_has_few_rights_and_limits() -> None:
    file = EXAMPLES / "shop" / "gateway.yaml"
    databases = {"user": "USERS_DATABASE_URL"}
    folder = exported(deployed(file.read_text(), str(file)), databases=databases, migrations={"user": ["true"]})
    found = services(folder)
    assert {"nginx", "gateway-1", "gateway-2", "user", "user-database", "user-migrate", "product"} < found.keys()
    assert {"redis", "prometheus", "grafana", "otel-collector", "backup"} < found.keys()
    for name, each in found.items():
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert int(each["user"].partition(":")[0]) > 0, name
        assert each["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert each["restart"], name
        assert re.search(r":[^:]*\d", each["image"]) or each["image"].startswith("passerelle"), name
        # Jobs end, and the image of the collector has no program that could check it.
        assert ("healthcheck" in each) == (name not in ("backup", "user-migrate", "otel-collector")), name
    assert {name for name, each in found.items() if "ports" in each} == {"nginx", "prometheus", "grafana"}
    assert found["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    assert found["user"]["deploy"]["replicas"] == 5


def test_everything_that_is_referred_to_exists_and_is_used() -> None:
    tls = {"certificate": "c.pem", "key": "k.pem"}
    local = {"app": "a:b", "env": {"DATABASE_URL": "postgresql://127.0.0.1/x", "B": "${TOKEN}", "C": "${file:f/c}"}}
    text = json.dumps({"tls": tls, "services": {"u": local}, "routes": ROUTES})
    document = exported(loaded(text, {"TOKEN": "t"})).document
    for kind in ("secrets", "configs"):
        used = {item["source"] for each in document["services"].values() for item in each.get(kind, ())}
        assert kind == "configs" or used >= {"TOKEN", "file.c", "file.k-pem", "admin-token", "redis-password"}
        assert used == document[kind].keys(), kind
    networks = {name for each in document["services"].values() for name in each["networks"]}
    assert networks == document["networks"].keys()
    volumes = {item.partition(":")[0] for each in document["services"].values() for item in each.get("volumes", ())}
    assert volumes == document["volumes"].keys()
    for each in document["services"].values():
        assert set(each.get("depends_on", ())) <= document["services"].keys()
    assert document["networks"]["u-database"] == {"internal": True}
    assert [name for name, each in document["services"].items() if "u-database" in each["networks"]] == [
        *("u-database", "u", "backup"),
    ]


def test_the_same_file_gives_the_same_bytes() -> None:
    assert folder_of({"app": "a:b"}).files == folder_of({"app": "a:b"}).files


# YAML has no control characters, in the configuration either.
@settings(max_examples=20)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")))
)
def test_values_of_the_environment_arrive_as_they_are(values: list[str]) -> None:
    env = {f"V{number}": value for number, value in enumerate([*values, *WORDS])}
    file = {"services": {"u": {"run": ["serve", "{port}"], "env": env}}, "routes": ROUTES}
    deployment = deployed(json.dumps(file, ensure_ascii=False).replace("$", "$$"))
    found = services(exported(deployment))["u"]
    assert {name: found["environment"][name] for name in env} == env


def test_words_of_a_command_arrive_as_they_are() -> None:
    plain = [word for word in WORDS if "$" not in word]
    command = services(folder_of({"run": ["serve", "{port}", *plain]}))["u"]["command"]
    assert command == ["serve", "5000", *plain]
    # With a dollar sign, `passerelle exec` replaces references, and `$$` is a dollar sign.
    command = services(folder_of({"run": ["serve", "{port}", *WORDS]}))["u"]["command"]
    assert command[:3] == ["passerelle", "exec", "--"]
    assert command[3:] == ["serve", "5000", *(word.replace("$", "$$") for word in WORDS)]


def test_names_do_not_collide_with_each_other_or_with_the_programs_beside_them(tmp_path: Path) -> None:
    names = ["cart_api", "cart-api", "redis", "gateway-1", "NGINX", "x" * 63, "user", "user-database", "front", "9"]
    local = {name: {"app": "a:b"} for name in names}
    deployment = deployment_of(local, [{"path": f"/{name}", "service": name} for name in names])
    folder = exported(deployment, databases={"user": "DATABASE_URL", "x" * 63: "DATABASE_URL"})
    found = services(folder)
    own = {name: each for name, each in found.items() if each.get("environment", {}).get("PASSERELLE_SERVICE")}
    assert sorted(each["environment"]["PASSERELLE_SERVICE"] for each in own.values()) == sorted(names)
    assert {"nginx", "redis", "gateway-1", "gateway-2", "user", "cart-api", "user-database"} <= found.keys()
    config = in_container(folder, tmp_path)
    for name in names:
        (target,) = config.services[name].targets or ()
        assert target.url is not None
        assert own[target.url.host]["environment"]["PASSERELLE_SERVICE"] == name
    images = [each["image"] for each in found.values()]
    assert images.count("postgres:17") == 2


PLANTED = "planted-s3cret-0123456789-0123456789-0123456789"


def planted(reference: str) -> str:
    """A file with a secret at each place that may have one."""
    sticky = {"policy": "p2c", "sticky": {"cookie": "at", "secret": reference}}
    headers = {"Authorization": f"Bearer {reference}"}
    local = {
        "run": ["serve", "{port}", "--dsn", f"http://u:{reference}@10.0.0.8/x"],
        "env": {"API_TOKEN": reference, "DSN": f"amqp://u:{reference}@10.0.0.8/", "PLAIN": "visible"},
    }
    return json.dumps(
        {
            "redis": f"redis://:{reference}@10.0.0.7/0",
            "admin": {"listen": "127.0.0.1:9900", "token": reference},
            "jwt": {"secret": reference, "algorithms": ["HS256"], "issuer": "i", "audience": "a"},
            "identity_token": {"secret": reference},
            "tracing": {"endpoint": "http://10.0.0.6:4318", "headers": {"X-Tenant": reference}},
            "alerts": {
                "rules": [{"name": "errors", "error_rate": "5%"}],
                "webhook": {"url": f"https://10.0.0.5/{reference}", "secret": reference},
            },
            "services": {
                "u": {
                    **MINIMAL,
                    "balance": sticky,
                    "health": {"path": "/", "headers": headers},
                },
                "local": local,
            },
            "routes": [
                {"path": "/", "service": "u", "auth": ["jwt"], "request_headers": {"set": headers}},
                {"path": "/l", "service": "local", "response_headers": {"add": {"X-Api-Key": reference}}},
            ],
        }
    )


@pytest.mark.parametrize("reference", [PLANTED, "${TOKEN}"])
def test_no_secret_is_exported(reference: str, tmp_path: Path) -> None:
    deployment = deployed(planted(reference), environ={"TOKEN": PLANTED})
    folder = exported(deployment)
    for text in (*folder.files.values(), *(str(each) for each in (*folder.changes, *folder.losses))):
        assert "s3cret" not in text
    assert "visible" in folder.files["compose.yaml"]
    # The values are those of the secret files.
    contents = {}
    for name, config in read(folder.files["compose.yaml"])["secrets"].items():
        assert config["file"] == f"./secrets/{name}"
        assert f"#   secrets/{name}: " in folder.files["compose.yaml"]
        whole = {"redis": f"redis://:{PLANTED}@10.0.0.7/0", "in-file-alerts-webhook-url": f"https://10.0.0.5/{PLANTED}"}
        bearer = f"Bearer {PLANTED}" if "Authorization" in name else PLANTED
        contents[name] = whole.get(name.removeprefix("in-file-") if "redis" in name else name, bearer)
    config = in_container(folder, tmp_path, contents)
    first = deployment.config
    assert config.jwt == first.jwt
    assert config.redis == first.redis
    assert config.alerts == first.alerts
    assert config.tracing == first.tracing
    assert config.identity_token == first.identity_token
    assert config.admin is not None
    assert config.admin.token is not None
    assert config.services["u"] == first.services["u"]
    assert [route.request_headers for route in config.routes] == [route.request_headers for route in first.routes]


class TestBackups:
    """The job of backups and the gateways have files of their own."""

    BOOKS = "postgresql://app:x@127.0.0.1/books"

    def folder(self, backup: dict[str, Any], **top: Any) -> compose.Folder:
        local = {"app": "a:b", "env": {"DATABASE_URL": self.BOOKS.replace("postgresql", "postgresql+psycopg")}}
        return exported(deployment_of({"u": MINIMAL, "books": local}, ROUTES, backup=backup, **top))

    def test_no_secret_is_exported_and_only_the_job_has_those_of_backups(self, tmp_path: Path) -> None:
        url = f"postgresql://u:{PLANTED}@10.0.0.3/users"
        s3 = {"access_key": "id", "secret_key": PLANTED}
        backup = {"databases": {"users": url}, "scratch": url, "to": "s3://backups/x", "s3": s3, "key_file": "b.key"}
        folder = self.folder(backup, admin={"listen": "127.0.0.1:9900", "token": PLANTED})
        assert not [name for name, written in folder.files.items() if "s3cret" in written]
        own = {f"in-file-backup-{end}" for end in ("databases-users", "scratch", "s3-secret_key")} | {"file.b-key"}
        found = services(folder)
        of_job = {used["source"] for used in found["backup"]["secrets"]}
        assert of_job == own | {"books-database-password"}
        assert not of_job & {used["source"] for used in found["gateway-1"]["secrets"]}
        assert "backup" not in read(folder.files["gateway/gateway.yaml"])
        # A bucket needs no volume, and no option overrides it.
        assert found["backup"]["command"] == ["passerelle", "backup", "/etc/passerelle/gateway.yaml"]
        assert "volumes" not in found["backup"] and "backups" not in read(folder.files["compose.yaml"])["volumes"]
        contents = {"in-file-backup-databases-users": url, "in-file-backup-scratch": url}
        loaded_backup = in_container(folder, tmp_path, contents, job="backup").backup
        assert loaded_backup is not None and loaded_backup.to == ("backups", "x")
        assert (loaded_backup.scratch, loaded_backup.key_file) == (url, tmp_path / "etc/passerelle/b.key")

    def test_the_databases_of_services_are_in_it_under_the_names_of_the_file(self, tmp_path: Path) -> None:
        folder = self.folder({"databases": {"archive": self.BOOKS.replace("app:x", "dump")}})
        found = in_container(folder, tmp_path, job="backup").backup
        assert found is not None and found.databases == {
            "archive": f"postgresql://books:{secret_text('books-database-password')}@books-database:5432/books"
        }
        assert found.to == Path("/backups")
        assert services(folder)["backup"]["volumes"] == ["backups:/backups"]
        found = in_container(self.folder({"databases": {}}), tmp_path, job="backup").backup
        assert found is not None and list(found.databases) == ["books-database"]

    def test_keys_and_sessions_are_in_it(self, tmp_path: Path) -> None:
        folder = exported(deployment_of({"u": MINIMAL}, ROUTES, keys={"store": "k.db"}, sessions={"store": "s.db"}))
        config = in_container(folder, tmp_path, job="backup")
        assert config.keys is not None and config.sessions is not None
        assert (config.keys.store, config.sessions.store) == ("redis", "redis")
        assert config.redis == in_container(folder, tmp_path).redis
        assert list(services(folder)["backup"]["depends_on"]) == ["redis"]

    def test_what_the_job_does_not_reach_is_lost(self) -> None:
        databases = {"a": "var/a.db", "b": "postgresql://u@localhost/other", "c": "postgresql://u@/c?host=/run/pg"}
        s3 = {"endpoint": "http://127.0.0.1:9000"}
        backup = {"databases": databases, "scratch": "postgresql://u@127.0.0.1/x", "to": "s3://backups/x", "s3": s3}
        folder = exported(deployment_of({"u": MINIMAL}, ROUTES, backup=backup))
        lost_keys = {".".join(map(str, each.loc)) for each in folder.losses}
        assert lost_keys == {f"backup.{key}" for key in ("databases.a", "databases.b", "databases.c", "scratch")} | {
            "backup.s3.endpoint"
        }
        # There is nothing left to back up, so there is no job.
        assert "backup" not in services(folder)
        assert not [name for name in folder.files if name.startswith("backup/")]


def test_references_become_files_and_defaults_stay() -> None:
    text = """\
redis: "redis://:${REDIS_PASSWORD}@10.0.0.7/0"
admin: {listen: 127.0.0.1:9900, token: "${file:tokens/admin}"}
services:
  u:
    app: a:b
    env: {A: "${A}-$$-${B:-b}", C: "${file:c}"}
routes: [{path: "/", service: u, timeout: "${LIMIT:-3s}"}]
"""
    folder = exported(loaded(text, {"A": "a", "REDIS_PASSWORD": "p", "LIMIT": "4s"}))
    document = read(folder.files["gateway/gateway.yaml"])
    assert document["redis"] == "redis://:${file:/run/secrets/REDIS_PASSWORD}@10.0.0.7/0"
    assert document["admin"]["token"] == "${file:/etc/passerelle/tokens/admin}"
    assert document["routes"][0]["timeout"] == "${LIMIT:-3s}"
    found = services(folder)
    assert found["gateway-1"]["environment"] == {"LIMIT": None}
    assert found["u"]["environment"]["B"] is None
    assert found["u"]["command"][:4] == [
        *("passerelle", "exec", "--env=A=${file:/run/secrets/A}-$$-${B:-b}"),
        "--env=C=${file:/etc/passerelle/c}",
    ]
    whole = read(folder.files["compose.yaml"])
    assert whole["secrets"]["file.admin"] == {"file": "/etc/passerelle/tokens/admin"}
    (token,) = [each for each in found["prometheus"]["secrets"] if each["source"] == "file.admin"]
    assert f"credentials_file: {token['target']}\n" in folder.files["prometheus/prometheus.yml"]
    assert {each["source"] for each in found["u"]["secrets"]} == {"A", "file.c"}


def loaded(text: str, environ: dict[str, str]) -> Deployment:
    """Return the model of a file with secret files, which need not exist here."""
    filled = re.sub(r"\$\{file:[^}]*\}", "0123456789-0123456789", text)
    return Deployment(deployed(filled, environ=environ).config, text, "gateway.yaml", Path("/etc/passerelle"))


LOST: dict[str, dict[str, Any]] = {
    "services.u.instances.max": {"u": {"app": "a:b", "instances": {"min": 2, "max": 3}}},
    "services.u.run": {"u": {"run": "serve --host 127.0.0.1 --port {port}"}},
    "services.u.env.SEARCH": {"u": {"app": "a:b", "env": {"SEARCH": "http://localhost:9200/x"}}},
    "services.u.env.DATABASE_URL": {"u": {"app": "a:b", "env": {"DATABASE_URL": "sqlite:///shop.db"}}},
    "services.u.cwd": {"u": {"app": "a:b", "cwd": "../elsewhere"}},
    "services.u.targets[0]": {"u": {"targets": ["http://127.0.0.1:5000"]}},
    "services.u.targets[0].url": {"u": {"targets": [{"url": "dns+http://localhost:5000"}]}},
    "keys.store": {"keys": {"store": "keys.db"}},
    "sessions.insecure": {"sessions": {"store": "s.db", "insecure": True}},
    "dns.server": {"dns": {"server": "127.0.0.1:5353"}},
    "jwt.jwks": {"jwt": {"jwks": "http://127.0.0.1:9/jwks", "algorithms": ["RS256"], "issuer": "i", "audience": "a"}},
    "oidc.issuer": {
        "oidc": {
            "issuer": "http://127.0.0.1:9",
            "client_id": "shop",
            "client_secret": "${file:secret}",
            "origin": "https://shop.example",
        },
        "sessions": {"store": "s.db"},
    },
    "limits.connections_per_address": {"limits": {"connections_per_address": 9}},
    "admin": {"admin": "off"},
}


@pytest.mark.parametrize("key", LOST)
def test_what_compose_cannot_express_is_listed_once_under_its_key(key: str, tmp_path: Path) -> None:
    file = dict(LOST[key])
    route = {"path": "/", "service": "u", **({"auth": ["jwt"]} if "jwt" in file else {})}
    more = [{"path": "/oidc/{step}", "oidc": True}] if "oidc" in file else []
    deployment = deployment_of({"u": file.pop("u", MINIMAL)}, [route, *more], **file)
    folder = exported(deployment)
    assert lost(deployment, folder.losses) == [key]
    in_container(folder, tmp_path)


def test_a_database_is_declared_by_a_variable_of_the_service() -> None:
    def labels(value: str, **options: Any) -> list[str]:
        folder = folder_of({"app": "a:b", "env": {"U_DATABASE_URL": value}}, options)
        return [name for name, each in services(folder).items() if each["image"].startswith("postgres")]

    assert labels("") == ["u-database"]
    assert labels("postgresql+psycopg://me:pw@localhost:5432/x") == ["u-database"]
    assert labels("postgresql://10.0.0.3/x") == []
    assert labels("sqlite:///x.db") == []
    assert labels("postgresql://10.0.0.3/x", databases={"u": "OTHER_URL"}) == ["u-database"]
    assert len(labels("", databases={"u": "OTHER_URL"})) == 2
    command = services(folder_of({"app": "a:b", "env": {"DATABASE_URL": "postgresql+psycopg://localhost/x"}}))["u"][
        "command"
    ]
    assert command[2] == (
        "--env=DATABASE_URL=postgresql+psycopg://u:${file:/run/secrets/u-database-password}@u-database:5432/u"
    )


def test_a_migration_runs_between_the_database_and_the_instances() -> None:
    migrate = {"databases": {"u": "DATABASE_URL"}, "migrations": {"u": ["python3", "-m", "migrate"]}}
    found = services(folder_of({"app": "a:b", "instances": 3}, migrate))
    assert found["u"]["depends_on"]["u-migrate"] == {"condition": "service_completed_successfully"}
    assert found["u-migrate"]["depends_on"] == {"u-database": {"condition": "service_healthy"}}
    assert found["u-migrate"]["command"][-3:] == ["python3", "-m", "migrate"]
    assert found["u-migrate"]["command"][:3] == found["u"]["command"][:3]
    assert found["u-migrate"]["restart"] == "on-failure:5"


def test_redis_on_another_machine_stays() -> None:
    folder = folder_of(MINIMAL, redis="redis://10.0.0.7/3")
    assert read(folder.files["gateway/gateway.yaml"])["redis"] == "redis://10.0.0.7/3"
    assert "redis" not in services(folder)
    here = folder_of(MINIMAL, redis="redis://127.0.0.1/3")
    text = read(here.files["gateway/gateway.yaml"])["redis"]
    assert text == "redis://:${file:/run/secrets/redis-password}@redis:6379/3"


def test_gateways_have_fixed_addresses_and_trust_nginx_alone(tmp_path: Path) -> None:
    folder = folder_of(MINIMAL, {"gateways": 3}, trusted_proxies=["192.0.2.0/24"])
    found = services(folder)
    fixed = [found[f"gateway-{number}"]["networks"]["front"]["ipv4_address"] for number in (1, 2, 3)]
    assert fixed == ["10.213.84.11", "10.213.84.12", "10.213.84.13"]
    assert re.findall(r"server ([\d.]+):8080;", folder.files["nginx/nginx.conf"]) == fixed
    proxy = found["nginx"]["networks"]["front"]["ipv4_address"]
    assert [str(each) for each in in_container(folder, tmp_path).trusted_proxies] == ["192.0.2.0/24", f"{proxy}/32"]
    assert [name for name, each in found.items() if "front" in each["networks"]] == [
        *("nginx", "gateway-1", "gateway-2", "gateway-3"),
    ]


def test_a_changed_file_replaces_the_containers_that_read_it() -> None:
    one, other = folder_of(MINIMAL), folder_of(MINIMAL, limits={"head_timeout": "7s"})
    changed = {
        name for name, each in services(one).items() if each.get("labels") != services(other)[name].get("labels")
    }
    assert {"nginx", "gateway-1", "gateway-2"} <= changed
    assert "redis" not in changed


CHECKS = Path(__file__).resolve().parents[2] / "scripts" / "check_docs.py"


@pytest.mark.long
def test_the_file_of_the_containers_is_valid_for_all_examples_of_the_documents(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_docs", CHECKS)
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    count = 0
    for page in sorted((CHECKS.parents[1] / "docs").rglob("*.md")):
        for match in check._FENCE.finditer(page.read_text()):
            text = match["text"]
            report = inspect_text(text, environ={}, elsewhere=True)
            if match["language"].strip() != "yaml" or report.config is None:
                continue
            if report.config.versions:
                continue  # the command refuses to export them
            count += 1
            folder = exported(deployed(text))
            webhook = {"in-file-alerts-webhook-url": "https://alerts.example.com/"}
            config = in_container(folder, tmp_path / str(count), webhook)
            assert [route.label for route in config.routes] == [route.label for route in report.config.routes]
            assert config.address.port >= 1024
            assert config.admin is None or 1024 <= config.admin.listen.port != config.address.port
    assert count > 20


def test_the_dashboard_has_metrics_and_labels_that_exist() -> None:
    metrics = {metric.name: metric for metric in METRICS}
    document = json.loads(folder_of(MINIMAL).files["grafana/passerelle.json"])
    titles = [panel["title"] for panel in document["panels"]]
    assert len(set(titles)) == len(titles) > 8
    for panel in document["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"passerelle_[a-z_]+", target["expr"])
            assert names
            known = set()
            for name in names:
                metric = metrics.get(name) or metrics[name.removesuffix("_bucket")]
                assert (metric.kind == "histogram") == name.endswith("_bucket")
                known |= set(metric.labels)
                assert ("rate(" in target["expr"] or "increase(" in target["expr"]) == (metric.kind != "gauge")
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = set(re.findall(r"[a-z]+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert used <= grouped <= known | {"le", "instance"}


@needs("redis-server")
def test_redis_reads_its_password_from_the_file_and_stops_on_a_signal(tmp_path: Path) -> None:
    found = services(folder_of(MINIMAL))["redis"]
    password = secret_text("redis-password")
    (tmp_path / "redis-password").write_text(password)
    (tmp_path / "data").mkdir()
    port = ports.free()
    script = (
        found["command"][2].replace("/run/secrets", str(tmp_path)).replace("/data", f"{tmp_path}/data\nport {port}")
    )
    words = [*found["command"][:2], script.replace("redis-server", shlex.quote(program("redis-server")))]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    check = found["healthcheck"]["test"][1:]
    check[-1] = check[-1].replace("/run/secrets", str(tmp_path)).replace("redis-cli", f"redis-cli -p {port}")
    try:
        wait_until(lambda: subprocess.run(check, capture_output=True).returncode == 0, "Redis is healthy", DEADLINE)
        (tmp_path / "redis-password").write_text("wrong")
        assert subprocess.run(check, capture_output=True).returncode != 0
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"redis-server" in arguments
        assert password.encode() not in arguments
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE)
    assert b"ready to exit" in output
    assert process.returncode == 0
