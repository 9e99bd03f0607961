"""An nginx that serves an exported configuration on a free port."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from passerelle.config import inspect_text
from passerelle.config.models.addresses import Address
from passerelle.config.problems import Finding
from passerelle.export import kubernetes, nginx_front, nginx_place
from passerelle.export.deployment import Deployment
from passerelle.export.nginx_writer import CACHE_FOLDER
from passerelle.system import ports
from tests.requirements import program
from tests.support.client import Client
from tests.support.wire import DEADLINE, Response, wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDER = Path("/etc/passerelle")


def deployed(text: str, file: str = "gateway.yaml", environ: dict[str, str] | None = None) -> Deployment:
    """Return the model of a configuration that will be in ``FOLDER``."""
    report = inspect_text(text, file, environ or {}, Path(file).parent, elsewhere=True)
    assert report.config is not None, report.errors
    return Deployment(report.config, text, file, FOLDER)


def deployment_of(services: dict[str, Any], routes: list[dict[str, Any]], **top: Any) -> Deployment:
    """Return the model of a configuration, in which no value refers to the environment."""
    known = {"services": services} if services else {}
    return deployed(json.dumps({**top, **known, "routes": routes}).replace("$", "$$"))


def in_place(deployment: Deployment, port: int = 8080) -> tuple[str, list[str]]:
    """Export nginx in place of the gateway; return the text and the lost keys."""
    text, losses = nginx_place.export(deployment, Address(host="127.0.0.1", port=port))
    return text, lost(deployment, losses)


def in_front(deployment: Deployment, *gateways: Address, port: int = 8081) -> tuple[str, list[str]]:
    """Export nginx in front of gateways; return the text and the lost keys."""
    text, losses = nginx_front.export(deployment, gateways, Address(host="127.0.0.1", port=port))
    return text, lost(deployment, losses)


def in_kubernetes(deployment: Deployment, **options: Any) -> tuple[dict[str, str], list[str]]:
    """Export to Kubernetes; return the files by their paths and the lost keys."""
    moved = copy.copy(deployment)
    moved.folder = Path("/srv/app")
    files, losses = kubernetes.export(moved, cluster_options(**options))
    return files, lost(deployment, losses)


def cluster_options(**options: Any) -> kubernetes.Options:
    """Return the options of an export to Kubernetes."""
    images = {"": "passerelle-services:0", **options.pop("service_images", {})}
    return kubernetes.Options(**{"image": "passerelle:0", "service_images": images, **options})


def lost(deployment: Deployment, losses: Any) -> list[str]:
    """Return the keys of losses, in the order of the file."""
    found: list[Finding] = list(losses)
    problems = sorted(map(deployment.locate, found), key=lambda problem: (problem.line, problem.column))
    return [problem.key for problem in problems]


class Nginx:
    """nginx with an exported configuration, for the time of a ``with`` block."""

    def __init__(self, text: str, port: int) -> None:
        self.port = port
        # The workers of nginx are of another user, to whom pytest's folders are closed.
        self._folder = Path(tempfile.mkdtemp(prefix="passerelle-nginx-"))
        self._folder.chmod(0o755)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"    {kind}_temp_path {self._folder}/{kind};\n" for kind in kinds)
        text = text.replace(CACHE_FOLDER, f"{self._folder}/cache").replace("/dev/stdout", "off")
        file = self._folder / "nginx.conf"
        file.write_text(text.replace("\nhttp {\n", f"\nhttp {{\n{temporary}", 1))
        self._log = (self._folder / "log").open("wb")
        own = f"daemon off; pid {self._folder}/pid; error_log stderr;"
        self._process = subprocess.Popen(
            [program("nginx"), "-p", os.fspath(self._folder), "-c", os.fspath(file), "-e", "stderr", "-g", own],
            stderr=self._log,
        )

    def __enter__(self) -> Nginx:
        wait_until(self._accepts, "nginx accepts connections", 4 * DEADLINE)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE)
        self._log.close()
        shutil.rmtree(self._folder)

    def _accepts(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with socket.socket() as found:
            return found.connect_ex(("127.0.0.1", self.port)) == 0

    def reload(self) -> None:
        """Read the configuration again; workers that run finish their requests."""
        self._process.send_signal(signal.SIGHUP)

    def connect(self) -> Client:
        """Open a client connection."""
        return Client(self.port)

    def request(self, method: str, target: str, *fields: tuple[str, str], body: bytes | None = None) -> Response:
        """Send a request on a connection of its own: nginx closes connections after many errors."""
        with self.connect() as client:
            return client.request(method, target, *fields, body=body)


def serving(deployment: Deployment) -> Nginx:
    """Start nginx in place of the gateway."""
    port = ports.free()
    return Nginx(in_place(deployment, port)[0], port)
