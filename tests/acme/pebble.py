"""Pebble, the ACME server for tests of the authors of Let's Encrypt, on free ports of this machine."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Self

from tests.requirements import program
from tests.support.names import Names
from tests.support.secure import Authority
from tests.support.wire import wait_until

KEY_ID, HMAC_KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pebble:
    """A running Pebble. It validates names at ``tls_port`` and ``http_port`` of this machine, whatever the name.

    ``folder`` has the certificates of its own listener. Without ``start``, it does not run yet.
    """

    def __init__(self, folder: Path, *, binding: bool = False, start: bool = True) -> None:
        self.folder = folder
        self.tls_port, self.http_port = free_port(), free_port()
        self._port, self._management = free_port(), free_port()
        authority = Authority(folder, "pebble-ca")
        self.ca = authority.file
        certificate, key = authority.issue("pebble", "127.0.0.1")
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(certificate),
            "privateKey": str(key),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": binding,
            "externalAccountMACKeys": {KEY_ID: HMAC_KEY},
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.directory = f"https://127.0.0.1:{self._port}/dir"
        self._log = folder / "pebble.log"
        self._names = Names()
        self._process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    def serve(self, *names: str) -> None:
        """Have these names lead to this machine."""
        for name in names:
            self._names.records[name, "A"] = ["127.0.0.1"]

    def start(self) -> None:
        """Start it; what an earlier run knew is lost."""
        environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [program("pebble"), "-config", "pebble.json", "-dnsserver", self._names.server, "-strict"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, "pebble listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it, and the name server."""
        self.stop()
        self._names.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def issued(self) -> int:
        """The number of certificates that were issued."""
        return len(re.findall(r"Issued certificate serial", self._log.read_text()))

    @property
    def orders(self) -> int:
        """The number of orders that were made."""
        return len(re.findall(r"Added order ", self._log.read_text()))

    def clients(self) -> ssl.SSLContext:
        """Return a context of clients that trust the certificates which this run issues, and no others."""
        own = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", self._management, context=own, timeout=10)
        try:
            connection.request("GET", "/roots/0")
            return ssl.create_default_context(cadata=connection.getresponse().read().decode())
        finally:
            connection.close()
