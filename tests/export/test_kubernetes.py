"""Manifests for Kubernetes: they run what the file states, with few rights, and contain no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from passerelle.appserver.main import GRACE
from passerelle.config import inspect_text
from passerelle.export import kubernetes, kubernetes_check
from passerelle.export.deployment import Deployment
from passerelle.export.dns_labels import labels
from passerelle.supervisor.supervisor import SERVICE_GRACE, WORKER_GRACE
from tests.export.serving import cluster_options, deployed, deployment_of, in_kubernetes

Resources = dict[tuple[str, str], dict[str, Any]]

APP: dict[str, Any] = {"app": "users:app", "health": {"path": "/healthz"}}
TARGETS = {"targets": ["http://10.0.0.7:5000"]}
ODD_TEXTS = ["yes", "0123", "1e3", "~", "null", "$HOME", "$(PORT)", "$$", "a\nb\n", "'\"\\", "# x", "- y: z", " é ", ""]


def routes(*services: str) -> list[dict[str, Any]]:
    return [{"path": f"/{number}", "service": name} for number, name in enumerate(services)]


def exported(services: dict[str, Any], more: list[dict[str, Any]] | None = None, **top: Any) -> Resources:
    """Export a file, and check the result; return its resources by kind and name."""
    return resources(deployment_of(services, [*routes(*services), *(more or [])], **top))


def resources(deployment: Deployment, **options: Any) -> Resources:
    files, _ = in_kubernetes(deployment, **options)
    assert list(kubernetes_check.problems(files)) == []
    found: Resources = {}
    for name, text in files.items():
        if "kustomization" not in name:
            for resource in yaml.load_all(text, Loader=yaml.CSafeLoader):
                found[resource["kind"], resource["metadata"]["name"]] = resource
    return found


def losses(services: dict[str, Any], more: list[dict[str, Any]] | None = None, **top: Any) -> list[str]:
    options = top.pop("options", {})
    return in_kubernetes(deployment_of(services, [*routes(*services), *(more or [])], **top), **options)[1]


def pod_of(found: Resources, name: str, kind: str = "Deployment") -> dict[str, Any]:
    pod: dict[str, Any] = found[kind, name]["spec"]["template"]["spec"]
    return pod


def container_of(found: Resources, name: str, kind: str = "Deployment") -> dict[str, Any]:
    (container,) = pod_of(found, name, kind)["containers"]
    assert isinstance(container, dict)
    return container


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace `$(NAME)` and `$$` as the kubelet does in commands and variables."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else variables.get(match[2], match[0])

    return re.sub(r"\$(?:(\$)|\(([^)]*)\))", value, text)


def gateway_file(found: Resources) -> Any:
    return yaml.safe_load(found["ConfigMap", "gateway-config"]["data"]["gateway.yaml"])


class TestTheFileOfTheGateway:
    def test_services_become_names_that_are_resolved(self) -> None:
        file = gateway_file(exported({"user": {**APP, "instances": 3, "threads": 2, "env": {"A": "b"}}}))
        assert file["services"] == {"user": {"targets": ["dns+http://user:5000"], "health": {"path": "/healthz"}}}
        assert file["dns"] == {"max_ttl": "5s"}

    def test_it_listens_on_all_addresses_and_on_no_low_port(self) -> None:
        file = gateway_file(exported({"u": TARGETS}, listen="127.0.0.1:443", admin="127.0.0.1:8080"))
        assert (file["listen"], file["admin"]["listen"]) == ("0.0.0.0:8080", "0.0.0.0:8081")

    def test_the_probes_need_no_token(self) -> None:
        admin = {"listen": "127.0.0.1:9900", "token": "${TOKEN}", "open": ["metrics"]}
        deployment = deployed(
            json.dumps({"admin": admin, "services": {"u": TARGETS}, "routes": routes("u")}),
            environ={"TOKEN": "0123456789abcdef"},
        )
        assert gateway_file(resources(deployment))["admin"]["open"] == ["metrics", "healthz", "readyz"]

    def test_values_keep_their_types(self) -> None:
        text = """\
limits: {headers: 0x10, body: 10KiB}
services:
  u: {targets: ["http://10.0.0.7:5000"]}
routes:
  - {path: /a, service: u, response_headers: {set: {X-A: "0123", X-B: "yes", X-C: off, X-D: '$${x}'}}}
"""
        one = inspect_text(text, elsewhere=True).config
        other = inspect_text(
            resources(deployed(text))["ConfigMap", "gateway-config"]["data"]["gateway.yaml"].replace(
                "${file:", "$${file:"
            ),
            elsewhere=True,
        ).config
        assert one is not None and other is not None
        assert (one.routes, one.limits, one.services) == (other.routes, other.limits, other.services)

    @settings(max_examples=40)
    @given(st.text(min_size=1, max_size=30).filter(str.isprintable))
    def test_any_value_arrives_as_it_is(self, value: str) -> None:
        quoted = json.dumps(value, ensure_ascii=False).replace("$", "$$")
        file = f"alerts: {{rules: {{name: {quoted}, p99: 1s}}}}\n"
        file += "services: {u: {targets: http://10.0.0.7}}\nroutes: [{path: /, service: u}]\n"
        deployment = deployed(file)
        text = kubernetes.cluster_file_of(deployment, cluster_options()).text
        report = inspect_text(text.replace("${file:", "$${file:"), elsewhere=True)
        assert report.config is not None, report.errors
        assert report.config.alerts == deployment.config.alerts

    def test_a_change_of_the_file_replaces_the_pods(self) -> None:
        def digest(**top: Any) -> str:
            template = exported({"u": TARGETS}, **top)["Deployment", "gateway"]["spec"]["template"]
            text: str = template["metadata"]["annotations"]["passerelle/config-sha256"]
            return text

        assert digest() == digest()
        assert digest() != digest(limits={"headers": 7})

    @pytest.mark.parametrize("top", [{}, {"redis": "redis://10.0.0.9"}, {"dns": {"min_ttl": "7s"}}, {"admin": "off"}])
    def test_the_gateway_accepts_it(self, top: dict[str, Any]) -> None:
        deployment = deployment_of({"user": APP, "u": TARGETS}, routes("user", "u"), **top)
        file = kubernetes.cluster_file_of(deployment, cluster_options())
        assert list(kubernetes_check.gateway_problems(file, {})) == []

    def test_redis_of_the_cluster_replaces_that_of_the_file(self) -> None:
        deployment = deployment_of({"u": TARGETS}, routes("u"), redis="redis://127.0.0.1")
        url = "redis://:${file:redis-password}@redis:6379/0"
        file = kubernetes.cluster_file_of(deployment, cluster_options(redis=url))
        assert 'redis: "redis://:${file:/run/secrets/passerelle/redis-password}@redis:6379/0"' in file.text
        assert [secret.key for secret in file.secrets] == ["redis-password", "value-of-admin-token"]


class TestPods:
    def test_an_app_is_served_on_the_port_of_its_service(self) -> None:
        found = exported({"user": {**APP, "interface": "wsgi", "threads": 7, "cwd": "users"}})
        container = container_of(found, "user")
        assert container["command"][3:] == [
            *("passerelle.appserver.main", "users:app", "--host", "0.0.0.0", "--port", "5000"),
            *("--interface", "wsgi", "--threads", "7"),
        ]
        assert container["workingDir"] == "/srv/app/users"
        (port,) = found["Service", "user"]["spec"]["ports"]
        assert (port["port"], found["Service", "user"]["spec"]["clusterIP"]) == (5000, "None")

    def test_a_command_listens_on_all_addresses(self) -> None:
        found = exported({"u": {"run": ["serve", "--bind", "127.0.0.1:{port}", "$(PORT)", "$$HOME"]}})
        command = [expand(word, {"PORT": "x"}) for word in container_of(found, "u")["command"]]
        assert command == ["serve", "--bind", "0.0.0.0:5000", "$(PORT)", "$$HOME"]

    def test_words_of_a_command_that_are_secret_come_from_a_secret(self) -> None:
        run = ["serve", "--token", "${TOKEN}", "--db", "pg://u:s3cret@db/x", "--port", "{port}", "$$x"]
        text = json.dumps({"services": {"u": {"run": run}}, "routes": routes("u")})
        deployment = deployed(text, environ={"TOKEN": SECRET})
        container = container_of(resources(deployment), "u")
        assert [container["command"][index] for index in (2, 4, 6)] == [
            *("$(PASSERELLE_WORD_2)", "$(PASSERELLE_WORD_4)", "5000"),
        ]
        assert expand(container["command"][7], {}) == "$x"
        env = {item["name"]: item.get("valueFrom") for item in container["env"]}
        assert env["PASSERELLE_WORD_2"] == {"secretKeyRef": {"name": "u-env", "key": "PASSERELLE_WORD_2"}}
        files, lost = in_kubernetes(deployment)
        assert lost == ["services.u.run"]  # the password in the file
        assert not [name for name, content in files.items() if "s3cret" in content]

    @pytest.mark.parametrize("text", ODD_TEXTS)
    def test_variables_arrive_as_they_are(self, text: str) -> None:
        found = exported({"u": {"app": "a:b", "env": {"NAME": text, "HOST": "h"}}})
        env = {item["name"]: item.get("value") for item in container_of(found, "u")["env"]}
        assert expand(env["NAME"], {"PORT": "replaced", "HOME": "replaced"}) == text
        assert (env["HOST"], env["PORT"], env["PASSERELLE_SERVICE"]) == ("h", "5000", "u")

    @pytest.mark.parametrize(("kind", "name"), [("Deployment", "gateway"), ("Deployment", "user"), ("Job", "")])
    def test_pods_have_few_rights(self, kind: str, name: str) -> None:
        deployment = deployment_of({"user": APP}, routes("user"))
        found = resources(deployment, migrations={"user": ("migrate",)})
        name = name or next(name for kind, name in found if kind == "Job")
        pod, container = pod_of(found, name, kind), container_of(found, name, kind)
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # it adds variables such as USER_PORT
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
        assert [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")] == ["/tmp"]

    def test_a_pod_that_ends_has_time_for_its_requests(self) -> None:
        for top in ({}, {"dns": {"max_ttl": "20s"}}):
            found = exported({"user": APP}, **top)
            for name, grace in (("gateway", WORKER_GRACE + SERVICE_GRACE), ("user", GRACE)):
                pause = container_of(found, name)["lifecycle"]["preStop"]["sleep"]["seconds"]
                assert pod_of(found, name)["terminationGracePeriodSeconds"] > pause + grace
            # A gateway that resolved the name just before has resolved it again when the instance stops.
            assert pause > float(gateway_file(found)["dns"]["max_ttl"].removesuffix("s"))

    def test_probes_of_the_gateway_are_pages_of_the_admin_port(self) -> None:
        container = container_of(exported({"u": TARGETS}), "gateway")
        pages = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert {page["path"] for page in pages.values()} == {"/readyz", "/healthz"}
        assert pages["livenessProbe"] == {"path": "/healthz", "port": "admin"}
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"http": 8080, "admin": 9900}

    def test_without_an_admin_port_the_probes_connect(self) -> None:
        found = exported({"u": TARGETS}, admin="off")
        container = container_of(found, "gateway")
        assert container["readinessProbe"]["tcpSocket"] == {"port": "http"}
        assert ("ServiceMonitor", "gateway") not in found
        assert losses({"u": TARGETS}, admin="off") == ["admin"]

    @pytest.mark.parametrize(
        ("health", "probe"),
        [
            (None, {"tcpSocket": {"port": "http"}}),
            ({"path": "/h", "timeout": "1500ms"}, {"httpGet": {"path": "/h", "port": "http"}, "timeoutSeconds": 2}),
            (
                {"path": "/h", "host": "a.example", "headers": {"X-A": "b"}},
                {
                    "httpGet": {
                        "path": "/h",
                        "port": "http",
                        "httpHeaders": [{"name": "X-A", "value": "b"}, {"name": "Host", "value": "a.example"}],
                    },
                    "timeoutSeconds": 1,
                },
            ),
            # Kubernetes accepts any status from 200 to 399, and has no secrets in probes: the gateway probes itself.
            ({"path": "/h", "statuses": [401]}, {"tcpSocket": {"port": "http"}}),
            ({"path": "/h", "headers": {"X-Token": "s3cret"}}, {"tcpSocket": {"port": "http"}}),
            ({"path": "/h", "headers": {"X_A": "b"}}, {"tcpSocket": {"port": "http"}}),
        ],
    )
    def test_readiness_of_a_service_is_its_health_check(self, health: Any, probe: dict[str, Any]) -> None:
        found = exported({"u": {"app": "a:b", **({"health": health} if health else {})}})
        readiness = container_of(found, "u")["readinessProbe"]
        assert {key: readiness[key] for key in probe} == probe
        assert "httpGet" not in container_of(found, "u")["livenessProbe"]  # a lost database is no reason to restart

    def test_memory_of_the_gateway_includes_the_cache_of_each_worker(self) -> None:
        def memory(**top: Any) -> int:
            container = container_of(exported({"u": TARGETS}, **top), "gateway")
            return int(container["resources"]["limits"]["memory"].removesuffix("Mi"))

        cached: dict[str, Any] = {"more": [{"path": "/c", "service": "u", "cache": {"ttl": "1s"}}]}
        assert memory(**cached, cache={"memory": "1GiB"}) - memory() == 1024 - 128
        assert memory(workers=2) - memory() == 256


class TestInstances:
    def test_a_fixed_number_is_that_of_replicas(self) -> None:
        found = exported({"u": {"app": "a:b", "instances": 3}})
        assert found["Deployment", "u"]["spec"]["replicas"] == 3
        assert ("HorizontalPodAutoscaler", "u") not in found

    def test_a_range_is_that_of_an_autoscaler(self) -> None:
        service = {"app": "a:b", "instances": {"min": 2, "max": 9, "target_in_flight": 4}}
        found = exported({"u": service})
        assert "replicas" not in found["Deployment", "u"]["spec"]
        spec = found["HorizontalPodAutoscaler", "u"]["spec"]
        assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
        (metric,) = spec["metrics"]
        assert metric["external"] == {
            "metric": {"name": "passerelle_upstream_in_flight", "selector": {"matchLabels": {"service": "u"}}},
            "target": {"type": "AverageValue", "averageValue": "4"},
        }
        assert losses({"u": service}) == []

    @pytest.mark.parametrize(("name", "options"), [("u", {"scale_by": "cpu"}), ("_u", {})])
    def test_without_requests_in_flight_it_follows_the_cpu(self, name: str, options: dict[str, Any]) -> None:
        services = {name: {"app": "a:b", "instances": {"min": 2, "max": 9}}}
        found = resources(deployment_of(services, routes(name)), **options)
        (scaler,) = (item for (kind, _), item in found.items() if kind == "HorizontalPodAutoscaler")
        assert scaler["spec"]["metrics"][0]["resource"]["name"] == "cpu"
        assert losses(services, options=options) == [f"services.{name}.instances.target_in_flight"]

    def test_each_workload_keeps_all_but_one_pod(self) -> None:
        found = exported({"user": APP})
        for name in ("gateway", "user"):
            assert found["PodDisruptionBudget", name]["spec"]["maxUnavailable"] == 1

    def test_overlays_differ_in_the_number_of_pods(self) -> None:
        services = {"a": {**APP, "instances": 4}, "b": {**APP, "instances": {"min": 2, "max": 9}}}
        files, _ = in_kubernetes(deployment_of(services, routes("a", "b")), gateways=3)
        staging, production = (
            yaml.safe_load(files[f"overlays/{x}/kustomization.yaml"]) for x in ("staging", "production")
        )
        assert staging["replicas"] == [{"name": "gateway", "count": 1}, {"name": "a", "count": 1}]
        assert production["replicas"] == [{"name": "gateway", "count": 3}, {"name": "a", "count": 4}]
        assert [patch["target"]["name"] for patch in staging["patches"]] == ["b"]
        assert production["components"] == ["../../components/monitoring"] and "components" not in staging


class TestNames:
    def test_names_that_are_illegal_there_are_mapped_without_collisions(self) -> None:
        names = ["cart_api", "cart-api", "Cart-API", "gateway", "_", "9", "a" * 63, "A" * 63, "x-"]
        found = exported(dict.fromkeys(names, APP))
        deployments = [name for kind, name in found if kind == "Deployment"]
        assert len(set(deployments)) == len(names) + 1
        assert {"cart-api", "gateway", "a" * 63} <= set(deployments)
        assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in deployments)
        served = {container_of(found, name)["env"][2]["value"]: name for name in deployments if name != "gateway"}
        for name, service in gateway_file(found)["services"].items():
            assert service["targets"] == [f"dns+http://{served[name]}:5000"]

    @settings(max_examples=60)
    @given(st.lists(st.text(max_size=80), max_size=8, unique=True))
    def test_labels_are_legal_and_distinct_in_any_order(self, names: list[str]) -> None:
        found = labels(names, ["gateway"])
        assert len(set(found.values())) == len(names) and "gateway" not in found.values()
        assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in found.values())

    def test_secret_files_with_any_name_have_keys(self) -> None:
        files = ["a b/Ünï.key", "a-b/uni.key", "x" * 70]
        fields = {f"X-{number}": f"${{file:{name}}}" for number, name in enumerate(files)}
        service = {**TARGETS, "health": {"path": "/", "headers": fields}}
        text = json.dumps({"services": {"u": service}, "routes": routes("u")})
        file = kubernetes.cluster_file_of(_with_secrets(text, files), cluster_options())
        keys = [secret.key for secret in file.secrets]
        assert len(keys) == len(set(keys)) == 4
        assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in keys)

    def test_the_name_of_a_migration_is_that_of_its_content(self) -> None:
        deployment = deployment_of({"a" * 63: APP}, routes("a" * 63))

        def job(*words: str) -> str:
            (name,) = (n for k, n in resources(deployment, migrations={"a" * 63: words}) if k == "Job")
            return name

        assert job("x") == job("x") != job("y")
        assert len(job("x")) <= 63


def _with_secrets(text: str, files: list[str]) -> Deployment:
    """Return the model of a file whose secret files exist only while it is read."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text("plain")
        return deployed(text, f"{folder}/gateway.yaml")


SECRET = "s3cret-0123456789-0123456789-0123456789"


class TestSecrets:
    def test_no_secret_is_exported(self) -> None:
        services = {
            "u": {
                **TARGETS,
                "balance": {"policy": "p2c", "sticky": {"cookie": "at", "secret": SECRET}},
                "health": {"path": "/", "headers": {"Authorization": SECRET, "X-Plain": "plain"}},
            },
            "local": {"app": "a:b", "env": {"API_KEY": SECRET, "DATABASE": f"pg://u:{SECRET}@db", "MODE": "plain"}},
        }
        fields = {"request_headers": {"set": {"X-Token": SECRET}}, "response_headers": {"add": {"X-Secret": SECRET}}}
        top: dict[str, Any] = {
            "redis": f"redis://:{SECRET}@10.0.0.9",
            "jwt": {"secret": SECRET, "algorithms": ["HS256"]},
            "identity_token": {"secret": SECRET},
            "admin": {"listen": "127.0.0.1:9900", "token": SECRET},
            "tracing": {"endpoint": "http://10.0.0.8:4318", "headers": {"X-Any": SECRET}},
            "alerts": {
                "rules": [{"p99": "1s"}],
                "webhook": {"url": f"https://hooks.example/{SECRET}", "secret": SECRET},
            },
            "backup": {
                "databases": {"users": f"postgresql://u:{SECRET}@10.0.0.3/users"},
                "to": "s3://backups/shop",
                "s3": {"access_key": "id", "secret_key": SECRET},
                "scratch": f"postgresql://u:{SECRET}@10.0.0.3/scratch",
            },
        }
        more = [{"path": "/x", "service": "u", "auth": ["jwt"], "identity_token": True, **fields}]
        deployment = deployment_of(services, [*routes(*services), *more], **top)
        files, lost = in_kubernetes(deployment, backup="@daily", migrations={"local": ("migrate",)})
        assert not [name for name, text in files.items() if "s3cret" in text]
        assert len(lost) == 16
        file = kubernetes.cluster_file_of(deployment, cluster_options())
        assert list(kubernetes_check.gateway_problems(file, {})) == []

    def test_variables_are_keys_of_secrets(self) -> None:
        text = json.dumps(
            {
                "redis": "redis://${REDIS:-10.0.0.9}",
                "admin": {"listen": "127.0.0.1:9900", "token": "${TOKEN}"},
                "services": {"user": {"app": "a:b", "env": {"URL": "x-${DB}-y", "B": "${C:-d}"}}},
                "routes": routes("user"),
            }
        )
        deployment = deployed(text, environ={"TOKEN": SECRET, "DB": SECRET, "REDIS": "10.0.0.8"})
        found = resources(deployment)
        env = {item["name"]: item.get("valueFrom") for item in container_of(found, "gateway")["env"]}
        assert env["TOKEN"] == {"secretKeyRef": {"name": "gateway-env", "key": "TOKEN"}}
        assert env["REDIS"] == {"secretKeyRef": {"name": "gateway-env", "key": "REDIS", "optional": True}}
        env = {item["name"]: item.get("valueFrom") for item in container_of(found, "user")["env"]}
        assert env["URL"] == {"secretKeyRef": {"name": "user-env", "key": "URL"}}
        files, lost = in_kubernetes(deployment)
        assert lost == ["services.user.env.B"]  # a key of a Secret has no default
        assert not [name for name, content in files.items() if "s3cret" in content]
        assert "#   user-env: URL: ${DB}" in files["base/kustomization.yaml"]
        (endpoint,) = found["ServiceMonitor", "gateway"]["spec"]["endpoints"]
        assert endpoint["authorization"]["credentials"] == {"name": "gateway-env", "key": "TOKEN"}

    def test_files_of_the_configuration_are_keys_of_a_secret(self) -> None:
        service = {"targets": ["https://10.0.0.7"], "tls": {"ca": "certs/ca.pem"}}
        found = exported({"u": service})
        assert gateway_file(found)["services"]["u"]["tls"]["ca"] == "/run/secrets/passerelle/certs-ca-pem"
        volume = next(item for item in pod_of(found, "gateway")["volumes"] if item["name"] == "secrets")
        assert {"key": "certs-ca-pem", "path": "certs-ca-pem"} in volume["secret"]["items"]

    def test_every_value_that_is_hidden_in_messages_is_a_reference(self) -> None:
        from passerelle.export.secret_places import SECRETS
        from tests.export.test_coverage import models

        hidden = {
            (model.__name__, key) for model in models() for key, field in model.model_fields.items() if not field.repr
        }
        known = {
            ("AdminPort", "token"),
            ("IdentityToken", "secret"),
            ("FixedKey", "key"),
            ("Oidc", "client_secret"),
            ("Jwt", "secret"),
            ("Webhook", "secret"),
            ("Webhook", "url"),
            ("Tracing", "headers"),
            ("Backup", "databases"),
            ("Backup", "scratch"),
            ("S3", "secret_key"),
            ("ExternalAccount", "hmac_key"),
        }
        assert hidden == known
        ends = {place[-2:] if place[-1] is None else place[-1:] for place in SECRETS}
        assert {
            ("token",),
            ("secret",),
            ("url",),
            ("headers", None),
            ("secret_key",),
            ("key",),
            ("client_secret",),
            ("hmac_key",),
        } == ends


class TestNetwork:
    def test_only_the_gateway_reaches_a_service(self) -> None:
        policy = exported({"user": APP})["NetworkPolicy", "user"]["spec"]
        (rule,) = policy["ingress"]
        (peer,) = rule["from"]
        assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "gateway"
        assert "namespaceSelector" not in peer

    def test_only_prometheus_reaches_the_admin_port(self) -> None:
        policy = exported({"user": APP})["NetworkPolicy", "gateway"]["spec"]
        (rule,) = (rule for rule in policy["ingress"] if rule["ports"][0]["port"] == "admin")
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]

    def test_the_gateway_reaches_what_the_file_names_and_nothing_else(self) -> None:
        services = {"user": APP, "u": {"targets": ["http://10.0.0.7:5000", "http://[fd00::1]:81", "https://a.example"]}}
        policy = exported(services, redis="rediss://redis.data.svc")["NetworkPolicy", "gateway"]["spec"]
        seen = [
            (
                rule.get("to", [{}])[0].get("ipBlock", {}).get("cidr", ""),
                sorted({port["port"] for port in rule["ports"]}),
            )
            for rule in policy["egress"]
        ]
        assert seen == [
            *[("", [53]), ("", [5000]), ("", [443]), ("", [6379]), ("10.0.0.7/32", [5000]), ("fd00::1/128", [81])]
        ]

    def test_a_gateway_and_its_route_lead_to_the_gateways(self) -> None:
        found = exported({"u": TARGETS}, [{"path": "/x", "host": "a.example", "service": "u"}])
        (rule,) = found["HTTPRoute", "gateway"]["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": "gateway", "port": 80}]
        assert "hostnames" not in found["HTTPRoute", "gateway"]["spec"]  # another route is for all hosts
        (listener,) = found["Gateway", "gateway"]["spec"]["listeners"]
        assert (listener["protocol"], listener["port"]) == ("HTTP", 80)

    def test_hosts_of_all_routes_are_those_of_the_route(self) -> None:
        more = [{"path": "/x", "host": host, "service": "u"} for host in ("a.example", "*.b.example")]
        found = resources(deployment_of({"u": TARGETS}, more))
        assert found["HTTPRoute", "gateway"]["spec"]["hostnames"] == ["*.b.example", "a.example"]
        found = resources(deployment_of({"u": TARGETS}, more), ingress="nginx")
        assert [rule["host"] for rule in found["Ingress", "gateway"]["spec"]["rules"]] == ["*.b.example", "a.example"]
        assert ("Gateway", "gateway") not in found

    def test_tls_ends_at_the_gateway(self) -> None:
        certificates = [{"names": ["a.example", "b.example"], "certificate": "a.pem", "key": "b.pem"}]
        tls = {"certificate": "c.pem", "key": "k.pem", "certificates": certificates}
        found = exported({"u": TARGETS}, tls=tls)
        assert "tls" not in gateway_file(found)
        listeners = found["Gateway", "gateway"]["spec"]["listeners"]
        assert [(each.get("hostname"), each["tls"]["certificateRefs"][0]["name"]) for each in listeners] == [
            (None, "gateway-tls"),
            ("a.example", "gateway-tls-1"),
            ("b.example", "gateway-tls-1"),
        ]
        found = resources(deployment_of({"u": TARGETS}, routes("u"), tls=tls), ingress="nginx")
        assert found["Ingress", "gateway"]["spec"]["tls"][1] == {
            "hosts": ["a.example", "b.example"],
            "secretName": "gateway-tls-1",
        }


def test_prometheus_keeps_the_labels_of_metrics() -> None:
    """A target has the label `service`, by which metrics and the autoscaler name services of the file."""
    (endpoint,) = exported({"u": TARGETS})["ServiceMonitor", "gateway"]["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True


LOST: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "access_log": (TARGETS, [], {"access_log": "var/a.log"}),
    "user": (TARGETS, [], {"user": "daemon"}),
    "redis": (TARGETS, [], {"redis": "redis://localhost"}),
    "limits.connections_per_address": (TARGETS, [], {"limits": {"connections_per_address": 9}}),
    "dns.server": (TARGETS, [], {"dns": {"server": "10.0.0.1"}}),
    "tls.minimum": (TARGETS, [], {"tls": {"certificate": "c", "key": "k", "minimum": "1.3"}}),
    "tls.client_ca": (TARGETS, [], {"tls": {"certificate": "c", "key": "k", "client_ca": "ca"}}),
    "keys.store": (TARGETS, [], {"keys": {"store": "k.db"}, "redis": "redis://10.0.0.9"}),
    "sessions.store": (TARGETS, [], {"sessions": {"store": "k.db"}, "redis": "redis://10.0.0.9"}),
    "sessions.insecure": (TARGETS, [], {"sessions": {"insecure": True}, "redis": "redis://10.0.0.9"}),
    "tracing.endpoint": (TARGETS, [], {"tracing": {"endpoint": "http://127.0.0.1:4318"}}),
    "services.u.targets[0]": ({"targets": ["http://127.0.0.1:5000"]}, [], {}),
    "services.u.targets[0].file": ({"targets": [{"file": "t.yaml"}]}, [], {}),
    "services.u.run": ({"run": "serve --port {port} --db localhost"}, [], {}),
    "services.u.env.A": ({"app": "a:b", "env": {"A": "pg://[::1]:5432/x"}}, [], {}),
    "services.u.env.B": ({"app": "a:b", "env": {"B": "sqlite:///x.db"}}, [], {}),
    "services.u.env.TOKEN": ({"app": "a:b", "env": {"TOKEN": "x"}}, [], {}),
    "services.u.balance.by": ({**TARGETS, "balance": {"policy": "hash", "by": "address"}}, [], {}),
    "routes[1].clients": (TARGETS, [{"path": "/x", "service": "u", "clients": {"allow": ["10.0.0.0/8"]}}], {}),
    "routes[1].cache": (TARGETS, [{"path": "/x", "service": "u", "cache": {"ttl": "1s"}}], {}),
    "routes[1].rate_limit": (
        TARGETS,
        [{"path": "/x", "service": "u", "rate_limit": {"rate": "1/s", "by": "header:X"}}],
        {},
    ),
}


@pytest.mark.parametrize("key", LOST)
def test_what_a_cluster_cannot_have_is_listed_once_under_its_key(key: str) -> None:
    service, more, top = LOST[key]
    assert losses({"u": service}, more, **top) == [key]


def test_a_provider_on_the_machine_and_a_secret_in_the_file_are_losses() -> None:
    client = {"issuer": "http://localhost", "client_id": "c", "client_secret": "s", "origin": "https://shop.example"}
    top = {"oidc": client, "sessions": {}, "redis": "redis://10.0.0.9"}
    found = losses({"u": TARGETS}, [{"path": "/oidc/{step}", "oidc": True}], **top)
    assert sorted(found) == ["oidc.client_secret", "oidc.issuer"]


@pytest.mark.parametrize("options", [{"gateways": 1}, {"redis": "redis://redis:6379/0"}])
def test_one_gateway_or_redis_shares_limits_and_responses(options: dict[str, Any]) -> None:
    more = [{"path": "/x", "service": "u", "cache": {"ttl": "1s"}, "rate_limit": {"rate": "1/s", "by": "header:X"}}]
    assert losses({"u": TARGETS}, more, options=options) == []


class TestBackups:
    """The job of backups and the gateways have files and Secrets of their own."""

    USERS = "postgresql://u:${file:users-password}@10.0.0.3/users"

    def resources(self, backup: dict[str, Any], file: str = "gateway.yaml", **options: Any) -> Resources:
        text = json.dumps({"backup": backup, "services": {"u": TARGETS}, "routes": routes("u")})
        return resources(deployed(text, file), backup="17 3 * * *", backup_image="dump:1", **options)

    def test_it_runs_on_schedule_and_keeps_its_files(self) -> None:
        found = self.resources({"databases": {"users": "postgresql://u@10.0.0.3/users"}, "to": "var/backups"})
        spec = found["CronJob", "gateway-backup"]["spec"]
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] == ["passerelle", "backup", "/etc/passerelle/gateway.yaml"]
        assert container["image"] == "dump:1"
        assert (spec["schedule"], spec["concurrencyPolicy"]) == ("17 3 * * *", "Forbid")
        assert ("PersistentVolumeClaim", "gateway-backup") in found
        assert [each["mountPath"] for each in container["volumeMounts"]] == ["/etc/passerelle", "/backups", "/tmp"]
        assert pod["volumes"][0] == {"name": "config", "configMap": {"name": "gateway-backup-config"}}
        file = yaml.safe_load(found["ConfigMap", "gateway-backup-config"]["data"]["gateway.yaml"])
        assert file["backup"] == {"databases": {"users": "postgresql://u@10.0.0.3/users"}, "to": "/backups"}

    def test_only_the_job_has_the_secrets_of_backups(self, tmp_path: Path) -> None:
        (tmp_path / "users-password").write_text("s3cret-users")
        key = "s3cret-0123456789"
        s3 = {"access_key": "${ID:-id}", "secret_key": key}
        backup = {"databases": {"users": self.USERS}, "to": "s3://backups/x", "s3": s3, "key_file": "k"}
        found = self.resources(backup, str(tmp_path / "gateway.yaml"))
        assert "backup" not in gateway_file(found)
        assert ("PersistentVolumeClaim", "gateway-backup") not in found
        pod = found["CronJob", "gateway-backup"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        secret = next(each["secret"] for each in pod["volumes"] if each["name"] == "secrets")
        keys = {item["key"] for item in secret["items"]}
        assert secret["secretName"] == "gateway-backup-files"
        assert keys == {"k", "users-password", "value-of-backup-s3-secret-key"}
        assert pod["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "gateway-backup-env"
        of_gateway = next(each["secret"] for each in pod_of(found, "gateway")["volumes"] if each["name"] == "secrets")
        assert [item["key"] for item in of_gateway["items"]] == ["value-of-admin-token"]
        files, _ = in_kubernetes(deployment_of({"u": TARGETS}, routes("u"), backup={"s3": s3, "databases": {}}))
        assert not [text for text in files.values() if "s3cret" in text or "secret-key" in text]

    def test_passerelle_accepts_its_file(self) -> None:
        deployment = deployment_of({"u": TARGETS}, routes("u"), keys={"store": "k.db"}, sessions={"store": "s.db"})
        options = cluster_options(backup="@daily", redis="redis://redis:6379/1")
        file = kubernetes.backup_file_of(deployment, options)
        assert file is not None and list(kubernetes_check.gateway_problems(file, {})) == []
        data = yaml.safe_load(file.text)
        assert (data["redis"], data["keys"], data["sessions"]) == (
            *("redis://redis:6379/1", {"store": "redis"}, {"store": "redis"}),
        )

    def test_nothing_to_back_up_is_lost(self) -> None:
        daily = {"backup": "@daily"}
        assert losses({"u": TARGETS}, options=daily) == ["backup.databases"]
        unreached = {"a": "var/a.db", "b": "postgresql://u@127.0.0.1/b"}
        lost = losses({"u": TARGETS}, backup={"databases": unreached}, options=daily)
        assert lost == ["backup.databases", "backup.databases.a", "backup.databases.b"]
        files, _ = in_kubernetes(deployment_of({"u": TARGETS}, routes("u")), **daily)
        assert not [name for name in files if "backup" in name]
        assert losses({"u": TARGETS}, backup={"databases": {"a": "postgresql://u@10.0.0.3/a"}}) == ["backup"]


def test_images_are_those_of_the_options() -> None:
    deployment = deployment_of({"a": APP, "b": APP}, routes("a", "b"))
    images = {"": "registry.example:5000/all", "b": "b@sha256:" + "0" * 64}
    found = resources(deployment, image="gate:1", service_images=images)
    assert [container_of(found, name)["image"] for name in ("gateway", "a", "b")] == ["gate:1", *images.values()]
    files, _ = in_kubernetes(deployment, image="gate:1", service_images=images)
    given = yaml.safe_load(files["overlays/staging/kustomization.yaml"])["images"]
    assert given == [{"name": "gate", "newTag": "1"}, {"name": "registry.example:5000/all", "newTag": "latest"}]


def test_the_same_file_gives_the_same_bytes() -> None:
    def bytes_of() -> dict[str, str]:
        return in_kubernetes(deployment_of({"b": APP, "a": APP}, routes("a", "b")), namespace="shop")[0]

    assert bytes_of() == bytes_of()
