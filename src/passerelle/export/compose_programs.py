"""Services of Compose for programs of others: nginx, Redis, PostgreSQL, Prometheus, Grafana, the collector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from passerelle.export.container_service import Database
from passerelle.export.secret_files import FOLDER

Service = dict[str, Any]

FRONT, SERVICES, MONITORING = "front", "services", "monitoring"
"""Networks: nginx and gateways; gateways, services and Redis; gateways, Prometheus, Grafana and the collector."""

IMAGES = {
    "nginx": "nginx:1.28",
    "redis": "redis:7.4",
    "postgres": "postgres:17",
    "prometheus": "prom/prometheus:v3.5.0",
    "grafana": "grafana/grafana:12.1.1",
    "collector": "otel/opentelemetry-collector:0.135.0",
}
COLLECTOR_MEMORY = 256
"""In MiB."""

_HTTP = "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=4)"
_TCP = "import sys, socket as s; s.create_connection((sys.argv[1], int(sys.argv[2])), 4)"


def service(
    image: str,
    user: str,
    *,
    cpus: float,
    memory: int,
    networks: Iterable[str] | Mapping[str, Any],
    files: Mapping[str, str] | None = None,
    secrets: Iterable[str] | Mapping[str, str] = (),
    writable: Iterable[str] = (),
    **more: Any,
) -> Service:
    """Return a service with few rights: no root, no capabilities, a file system that is read-only except ``writable``.

    ``files`` maps names of configs, and ``secrets`` those of secrets, to their places. ``memory`` is in MiB.
    """
    places = secrets if isinstance(secrets, Mapping) else {name: f"{FOLDER}/{name}" for name in secrets}
    found: Service = {
        "image": image,
        "user": user,
        **more,
        "restart": more.get("restart", "unless-stopped"),
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "networks": dict(networks) if isinstance(networks, Mapping) else list(networks),
    }
    if files:
        found["configs"] = [{"source": name, "target": place} for name, place in files.items()]
    if places:
        found["secrets"] = [{"source": name, "target": place} for name, place in sorted(places.items())]
    if writable:
        found["tmpfs"] = list(writable)
    limits = {"cpus": f"{cpus:g}", "memory": f"{memory}M", "pids": 512}
    found["deploy"] = {**more.get("deploy", {}), "resources": {"limits": limits}}
    # It rotates files, which the usual driver does not.
    found["logging"] = {"driver": "local"}
    return found


def check(*words: str, start: int = 30) -> dict[str, Any]:
    """Return a health check. ``start`` is the time in seconds in which failures do not count."""
    return {"test": ["CMD", *words], "interval": "10s", "timeout": "5s", "retries": 3, "start_period": f"{start}s"}


def shell_check(script: str, start: int = 30) -> dict[str, Any]:
    """Return a health check of a shell."""
    return check("sh", "-c", script, start=start)


def http_check(port: int, path: str) -> dict[str, Any]:
    """Return a health check by HTTP, of an image with Python."""
    return check("python3", "-c", _HTTP, f"http://127.0.0.1:{port}{path}")


def tcp_check(port: int) -> dict[str, Any]:
    """Return a health check by a connection, of an image with Python."""
    return check("python3", "-c", _TCP, "127.0.0.1", str(port))


def after(**conditions: Iterable[str]) -> dict[str, Any]:
    """Return what a service starts after: names of other services by conditions."""
    return {name: {"condition": f"service_{word}"} for word, names in conditions.items() for name in names}


def redis(secret: str) -> Service:
    """Redis with a password. Keys expire or are few; responses are evicted first."""
    lines = (
        f"requirepass $(cat {FOLDER}/{secret})",
        "dir /data",
        "appendonly yes",
        "maxmemory 256mb",
        "maxmemory-policy volatile-ttl",
    )
    # The password is in no argument, which other processes could read.
    script = "\n".join(("exec redis-server - <<END", *lines, "END", ""))
    return service(
        IMAGES["redis"],
        "999:1000",
        cpus=1,
        memory=512,
        networks=[SERVICES],
        secrets=[secret],
        writable=["/tmp"],  # noqa: S108 - a place in the container
        command=["sh", "-c", script],
        volumes=["redis:/data"],
        healthcheck=shell_check(f'REDISCLI_AUTH="$(cat {FOLDER}/{secret})" redis-cli ping | grep -q PONG'),
        stop_grace_period="30s",
    )


def postgres(database: Database) -> Service:
    """PostgreSQL for one service, on a network that only this service has."""
    place = f"{FOLDER}/{database.password}"
    return service(
        IMAGES["postgres"],
        "999:999",
        cpus=1,
        memory=512,
        networks=[database.label],
        secrets=[database.password],
        writable=["/tmp", "/var/run/postgresql"],  # noqa: S108
        environment={
            "POSTGRES_USER": database.name,
            "POSTGRES_DB": database.name,
            "POSTGRES_PASSWORD_FILE": place,
            "POSTGRES_INITDB_ARGS": "--data-checksums",
        },
        shm_size="128m",
        volumes=[f"{database.label}:/var/lib/postgresql/data"],
        healthcheck=check("pg_isready", "-q", "-h", "127.0.0.1", "-U", database.name, "-d", database.name),
        stop_grace_period="60s",
    )


def prometheus(files: Mapping[str, str], secrets: Mapping[str, str], starts_after: dict[str, Any]) -> Service:
    """Prometheus, which the machine itself can open on port 9090."""
    return service(
        IMAGES["prometheus"],
        "65534:65534",
        cpus=1,
        memory=1024,
        networks=[MONITORING],
        files=files,
        secrets=secrets,
        command=[
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=15d",
            "--storage.tsdb.retention.size=8GB",
        ],
        ports=["127.0.0.1:9090:9090"],
        volumes=["prometheus:/prometheus"],
        healthcheck=check("wget", "-q", "--spider", "http://127.0.0.1:9090/-/ready"),
        depends_on=starts_after,
        stop_grace_period="30s",
    )


def grafana(files: Mapping[str, str], password: str) -> Service:
    """Grafana, which the machine itself can open on port 3000."""
    return service(
        IMAGES["grafana"],
        "472:0",
        cpus=1,
        memory=512,
        networks=[MONITORING],
        files=files,
        secrets=[password],
        writable=["/tmp"],  # noqa: S108
        environment={
            "GF_SECURITY_ADMIN_PASSWORD__FILE": f"{FOLDER}/{password}",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "GF_PLUGINS_PREINSTALL_DISABLED": "true",
            "GF_USERS_ALLOW_SIGN_UP": "false",
        },
        ports=["127.0.0.1:3000:3000"],
        volumes=["grafana:/var/lib/grafana"],
        healthcheck=check("wget", "-q", "--spider", "http://127.0.0.1:3000/api/health", start=60),
        depends_on=after(started=["prometheus"]),
    )


def collector(file: str) -> Service:
    """The collector of traces. Its image has no program that could check it."""
    return service(
        IMAGES["collector"],
        "10001:10001",
        cpus=1,
        memory=COLLECTOR_MEMORY,
        networks=[SERVICES, MONITORING],
        files={file: "/etc/otelcol/config.yaml"},
    )
