"""The gateway of the walk: ``passerelle up`` in a process of its own, and commands to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crossing.configurations import Place

COMMAND = [sys.executable, "-m", "passerelle"]


class Trouble(Exception):
    """The walk cannot go on; the text is the reason."""


class Gateway:
    """A gateway with the file ``gateway.yaml`` in the folder of ``place``. ``environ`` is that of its services."""

    def __init__(self, place: Place, text: str, environ: dict[str, str]) -> None:
        self.place = place
        self._log = place.folder / "output.txt"
        self._environ = environ
        self.write(text)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the command of the project
                [*COMMAND, "up"], cwd=place.folder, env=environ, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self.wait(lambda: "listening on" in self._log.read_text(errors="replace"), 60.0, "the gateway to start")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def write(self, text: str) -> None:
        """Write the file. It is applied by a reload."""
        (self.place.folder / "gateway.yaml").write_text(text, encoding="utf-8")

    def wait(self, holds: Any, limit: float, what: str) -> None:
        """Wait until ``holds()``, at most ``limit`` seconds."""
        end = time.monotonic() + limit
        while not holds():
            if self._process.poll() is not None or time.monotonic() > end:
                lines = self._log.read_text(errors="replace").splitlines()[-15:]
                raise Trouble("\n".join([f"waited in vain for {what}; the last lines of the gateway:", *lines]))
            time.sleep(0.25)

    def passerelle(self, *arguments: str, expected: tuple[int, ...] = (0,)) -> str:
        """Run a command in the folder of the file, and return its output."""
        return run_command(self.place.folder, self._environ, *arguments, expected=expected)

    def admin(self, path: str) -> Any:
        """Return the JSON of a page of the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.place.admin, timeout=10)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def rollout(self, route: str) -> dict[str, Any]:
        """Return the state of the rollout of a route."""
        found: dict[str, Any] = self.admin(f"/rollout?route={quote(route)}")["routes"][route]
        return found


def run_command(folder: Path, environ: dict[str, str], *arguments: str, expected: tuple[int, ...] = (0,)) -> str:
    """Run ``passerelle`` with ``arguments`` in ``folder``, and return its output."""
    done = subprocess.run(  # noqa: S603 - the command of the project
        [*COMMAND, *arguments],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode not in expected:
        raise Trouble(f"passerelle {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def environment(folder: Path, shop: Path) -> dict[str, str]:
    """Return the environment of the services: their databases are in ``folder``."""
    found = dict(os.environ)
    for name in ("MONOLITH", "USERS", "PRODUCTS"):
        found[f"{name}_DATABASE_URL"] = f"sqlite:///{folder / name.lower()}.db"
    found.pop("REDIS_URL", None)
    found["PYTHONPATH"] = os.fspath(shop)
    return found
