"""Certificates and keys in one file, which others may replace at any time."""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from passerelle.acme import files
from passerelle.http1.tls_bundle import load_bundle
from passerelle.http1.tls_contexts import ServerFiles, server_context
from tests.support.secure import Authority


def bundle(folder: Path) -> bytes:
    certificate, key = Authority(folder, "authority").issue("name", "localhost")
    return key.read_bytes() + certificate.read_bytes()


def test_a_file_with_certificate_and_key_is_read_once(tmp_path: Path) -> None:
    """A pipe has its content once. OpenSSL would open a file twice, and a second time only for the key."""
    pipe = tmp_path / "both.pem"
    content = bundle(tmp_path)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    context = server_context(ServerFiles(pipe, pipe))
    writer.join(10)
    assert not writer.is_alive()
    assert isinstance(context, ssl.SSLContext)


def test_an_encrypted_key_is_refused_without_a_question(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path, "authority").issue("name", "localhost")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(OSError, match="the key is encrypted"):
        load_bundle(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), encrypted + certificate.read_bytes())


def test_workers_that_start_together_use_one_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, first = files._placeholder, []

    def slow() -> bytes:
        monkeypatch.setattr(files, "_placeholder", made)
        first.append(files.ensure_placeholder(tmp_path).read_bytes())  # another worker is faster
        return made()

    monkeypatch.setattr(files, "_placeholder", slow)
    assert files.ensure_placeholder(tmp_path).read_bytes() == first[0]
    assert [each.name for each in tmp_path.iterdir()] == [files.PLACEHOLDER]
