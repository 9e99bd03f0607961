"""Run the containers of an exported folder as processes, each in a network namespace with the address of its container.

``python -m tests.export.stack FOLDER`` runs in network, mount and PID namespaces of its own (``unshare``), and prints
what the clients have seen as JSON. Commands, environment, health checks and files are those of the export; only the
places of files differ.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.export.containers import interpolated, read
from tests.requirements import program
from tests.support.names import Names

BRIDGE = "10.213.84.1"
LIMIT = 60.0  # seconds for a condition


def run(*words: str) -> None:
    subprocess.run(words, check=True)


class Stack:
    """The processes of the containers, by the names of their services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Any] = interpolated(read((folder / "compose.yaml").read_text()))["services"]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.addresses: dict[str, str] = {}
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge")
        for address in (BRIDGE, "10.213.85.1"):
            run("ip", "addr", "add", f"{address}/24", "dev", "bridge")
        run("ip", "link", "set", "bridge", "up")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        Path("/run/secrets").mkdir()
        for name, config in read((folder / "compose.yaml").read_text())["secrets"].items():
            assert config["file"] == f"./secrets/{name}"
            Path("/run/secrets", name).write_text(f"{name}-0123456789abcdef\n")
        (folder / "resolv.conf").write_text(f"nameserver {BRIDGE}\n")
        run("mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf")
        self.names = Names(ttl=600, address=(BRIDGE, 53))

    def start(self, service: str, replica: int = 0) -> None:
        """Start a container: its command in a namespace with its address."""
        described = self.services[service]
        networks = described["networks"]
        name = f"{service}-{replica}"
        # Of the networks, those with fixed addresses; others get an address on the network of services.
        fixed = [each["ipv4_address"] for each in networks.values() if each] if isinstance(networks, dict) else []
        fixed = fixed or [f"10.213.85.{200 + len(self.addresses)}"]
        self.addresses[name] = fixed[0]
        run("ip", "netns", "add", name)
        end = f"v{len(self.addresses)}"
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", end, "master", "bridge", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        for address in fixed:
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "add", "default", "via", f"{fixed[0].rpartition('.')[0]}.1")
        self.names.records.setdefault((service, "A"), []).append(fixed[-1])
        environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **described.get("environment", {})}
        self.running[name] = subprocess.Popen(
            ["ip", "netns", "exec", name, *self._words(described.get("command"))],
            cwd=self.folder,
            env=environ,
            stdout=(self.folder / f"{name}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def _words(self, command: list[str] | None) -> list[str]:
        if command is None:
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            temporary = " ".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
            text = (
                (self.folder / "nginx/nginx.conf")
                .read_text()
                .replace("http {", f"http {{ access_log off; {temporary}", 1)
            )
            (self.folder / "nginx.conf").write_text(text)
            own = f"daemon off; pid {self.folder}/pid;"
            return [program("nginx"), "-e", "stderr", "-c", f"{self.folder}/nginx.conf", "-g", own]
        places = {"/etc/passerelle": f"{self.folder}/gateway", "dir /data": f"dir {self.folder}"}
        words = []
        for word in command:
            for place, here in places.items():
                word = word.replace(place, here)
            words.append(word)
        return words

    def healthy(self, name: str) -> None:
        """Wait until the health check of a container succeeds."""
        words = self.services[name.rpartition("-")[0]]["healthcheck"]["test"]
        assert words[0] == "CMD"
        environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        end = time.monotonic() + LIMIT
        while subprocess.run(["ip", "netns", "exec", name, *words[1:]], env=environ, capture_output=True).returncode:
            log = (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < end, f"{name} is not healthy:\n{log}"
            time.sleep(0.3)

    def get(self, host: str, port: int, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, name: str) -> int:
        """End a container as Compose does, and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(LIMIT)


def main(folder: Path) -> dict[str, Any]:
    """Start everything, send requests through nginx, and end everything."""
    stack = Stack(folder)
    seen: dict[str, Any] = {}
    stack.start("redis")
    for replica in range(stack.services["u"]["deploy"]["replicas"]):
        stack.start("u", replica)
    stack.healthy("redis-0")
    for service in ("gateway-1", "gateway-2", "nginx"):
        stack.start(service)
    for name in list(stack.running):
        stack.healthy(name)
    proxy = stack.addresses["nginx-0"]
    answers = [stack.get(proxy, 8080, "/x") for _ in range(20)]
    seen["statuses"] = [status for status, _ in answers]
    found = [json.loads(body) for _, body in answers]
    seen["addresses"] = sorted({each.pop("address") for each in found})
    seen["service"] = found[0] if all(each == found[0] for each in found) else found
    seen["limited"] = Counter(stack.get(proxy, 8080, "/limited")[0] for _ in range(8))
    gateway = stack.addresses["gateway-1-0"]
    token = Path("/run/secrets/admin-token").read_text().strip()
    seen["metrics"] = [
        stack.get(gateway, 9900, "/metrics")[0],
        stack.get(gateway, 9900, "/metrics", Authorization=f"Bearer {token}")[0],
    ]
    seen["codes"] = {"gateway-1-0": stack.stop("gateway-1-0")}
    seen["after"] = [stack.get(proxy, 8080, "/x")[0] for _ in range(6)]
    for name in list(stack.running):
        seen["codes"][name] = stack.stop(name)
    stack.names.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
