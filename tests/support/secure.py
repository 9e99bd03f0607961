"""TLS for tests: a certificate authority, and clients and scripted upstreams that use TLS."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import trustme

from tests.support.client import Client
from tests.support.upstream import Connection, Script, Upstream


class Authority:
    """Issues certificates and writes them to ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, stem: str, *names: str, common_name: str | None = None) -> tuple[Path, Path]:
        """Write a new certificate for ``names`` and its key, replacing existing files; return their paths."""
        issued = self._ca.issue_cert(*names, common_name=common_name)
        files = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, data in zip(files, (chain, issued.private_key_pem.bytes()), strict=True):
            new = path.with_suffix(".new")
            new.write_bytes(data)
            os.replace(new, path)
        return files

    def client_context(self, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Return a client context that trusts this authority alone."""
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


class SecureClient(Client):
    """TLS connection to the gateway, as ``localhost`` or another name."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext,
        *,
        receive_buffer: int | None = None,
        name: str | None = "localhost",
    ) -> None:
        super().__init__(port, receive_buffer=receive_buffer)
        plain = self.sock
        try:
            self.tls = context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise
        self.sock = self.tls


class SecureUpstream(Upstream):
    """Scripted upstream with TLS; ``greeted`` are the connections whose handshake succeeded."""

    def __init__(self, script: Script | Sequence[Script], context: ssl.SSLContext) -> None:
        self.context = context
        self.greeted: list[ssl.SSLSocket] = []
        super().__init__(script)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _run(self, conn: Connection, script: Script) -> None:
        conn.sock.settimeout(30)
        try:
            conn.sock = secured = self.context.wrap_socket(conn.sock, server_side=True)
        except OSError:
            conn.gone.set()
            conn.sock.close()
            return
        self.greeted.append(secured)
        super()._run(conn, script)


def server_context(certificate: tuple[Path, Path], client_ca: Path | None = None) -> ssl.SSLContext:
    """Return the context of an upstream."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
