"""The commands of docs/how-to/postgresql-and-redis.md, run in their order on real servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.caching.redis_server import RedisServer
from tests.examples.conftest import SHOP
from tests.requirements import needs, program
from tests.supervisor.up import Up, command
from tests.support.postgresql import SUPERUSER, PostgresServer

pytestmark = [
    *(pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(180)),
    needs("initdb", "postgres", "redis-server", "curl"),
]

PAGE = SHOP.parents[1] / "docs" / "how-to" / "postgresql-and-redis.md"
START = "passerelle up gateway.yaml"
LIMIT = 60.0  # seconds


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the shop's folder whose gateway.yaml runs one instance of each service."""
    folder = tmp_path / "examples" / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("var", "__pycache__"))
    file = folder / "gateway.yaml"
    file.write_text(file.read_text().replace("instances: 5", "instances: 1"))
    return folder


@pytest.fixture
def postgresql(cluster: PostgresServer) -> Iterator[PostgresServer]:
    yield cluster
    cluster.drop("shop_users", "shop_products")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def shell(script: str, folder: Path) -> str:
    """Run ``script`` until a command fails; return its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def consoles() -> Iterator[tuple[str, str]]:
    """Yield the commands of the console blocks, each with its output."""
    for block in blocks("console"):
        for part in block.split("$ ")[1:]:
            line, _, output = part.partition("\n")
            yield line, output


def check(running: Up) -> None:
    for line, output in consoles():
        words = line.replace("localhost:8080", f"127.0.0.1:{running.port}")
        assert shell(words.replace("curl", program("curl"), 1), Path.cwd()).strip() == output.strip()


def test_the_shop_runs_on_postgresql_and_redis(
    copy: Path, tmp_path: Path, postgresql: PostgresServer, redis: RedisServer
) -> None:
    script = "".join(blocks("sh"))
    for written, real in {
        "//postgres@": f"//{SUPERUSER}@",
        "127.0.0.1:5432": f"127.0.0.1:{postgresql.port}",
        "127.0.0.1:6379": f"127.0.0.1:{redis.port}",
    }.items():
        assert written in script
        script = script.replace(written, real)
    assert script.rstrip().endswith(START)
    output = shell(script.replace(START, "env -0"), tmp_path)
    made, _, environment = output.partition("rows added")
    assert "users: role shop_users, database shop_users, at most 10 connections" in made
    environ = dict(entry.partition("=")[::2] for entry in environment.split("\n", 2)[-1].split("\0") if "=" in entry)
    env = {name: value for name, value in environ.items() if name.endswith("_URL")}
    assert len(env) == 4 and "ADMIN_DATABASE_URL" not in env
    free = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    with command(copy, *START.split()[1:], *free, env=env) as running:
        running.says("listening on", LIMIT)
        running.listening()
        check(running)
        assert running.get("/metrics", running.admin)[1].count(b"\npasserelle_cache_redis_connected 1") == 1
        assert running.stop(limit=LIMIT) == 0
    assert not (copy / "var").exists()
