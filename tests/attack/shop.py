"""The shop as in production, behind the gateway: two services in separate processes, with their own databases."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.supervisor.up import up

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
OPENAPI = SHOP / "openapi"
START = 60.0
"""Seconds that the start may take in total."""
TABLES = {"users": "user", "products": "product"}
KEPT = {name: f"SELECT * FROM {name} ORDER BY id" for name in TABLES}


class Shop:
    """Running shop: the gateway's port, and the databases for direct inspection."""

    def __init__(self, port: int, databases: dict[str, Path]) -> None:
        self.port = port
        self._databases = {name: sqlite3.connect(path, timeout=START) for name, path in databases.items()}
        self._last: dict[tuple[str, str], tuple[int, list[tuple[object, ...]]]] = {}

    def close(self) -> None:
        for connection in self._databases.values():
            connection.close()

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Return all rows of both tables."""
        return {name: self._read(name, statement) for name, statement in KEPT.items()}

    def schemas(self) -> dict[str, list[tuple[object, ...]]]:
        """Return the schemas of both databases: tables, indexes, triggers, with their SQL."""
        return {name: self._read(name, "SELECT type, name, sql FROM sqlite_master ORDER BY name") for name in TABLES}

    def _read(self, name: str, statement: str) -> list[tuple[object, ...]]:
        """Return what ``statement`` gives; it is run again after a commit of another connection."""
        connection = self._databases[name]
        ((version,),) = connection.execute("PRAGMA data_version")
        known = self._last.get((name, statement))
        if known is None or known[0] != version:
            known = self._last[name, statement] = version, connection.execute(statement).fetchall()
        return known[1]


@contextmanager
def shop(folder: Path) -> Iterator[Shop]:
    """Run the shop with its seeds."""
    databases = {name: folder / f"{name}.db" for name in TABLES}
    env = {f"{name.upper()}_DATABASE_URL": f"sqlite:///{path}" for name, path in databases.items()}
    for name in TABLES:
        command = [sys.executable, "-m", "shopkit.prepare", name]
        subprocess.run(command, cwd=SHOP, env={**os.environ, **env}, check=True, timeout=START, capture_output=True)
    services = {
        service: {"app": f"{name}:app", "cwd": str(SHOP), "env": env, "health": {"path": "/healthz", "timeout": "20s"}}
        for name, service in TABLES.items()
    }
    part = {"pass_status": [404]}
    routes = [
        *({"path": f"/{service}", "service": service} for service in services),
        *({"path": f"/{service}/{{{service}_id}}", "service": service} for service in services),
        {
            "path": "/api/{user_id}/{product_id}",
            "methods": ["GET", "HEAD"],
            "compose": {name: {"service": name, "path": f"/{name}/{{{name}_id}}", **part} for name in services},
        },
    ]
    # JSON is valid YAML.
    config = "\n".join(
        f"{key}: {json.dumps(value)}"
        for key, value in (("services", services), ("routes", routes), ("access_log", "off"))
    )
    with up(folder, config) as running:
        running.says(r"listening on http", START)
        with closing(Shop(running.listening()[0], databases)) as running_shop:
            yield running_shop
