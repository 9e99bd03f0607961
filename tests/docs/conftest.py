"""Folders and shells for pages that are run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Shell, free_ports


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Shell]:
    """A shell beside a clone of the repository that was set up with `make install`."""
    folder = tmp_path / "work"
    (folder / "passerelle").mkdir(parents=True)
    ignored = shutil.ignore_patterns("var", "__pycache__")
    shutil.copytree(ROOT / "examples", folder / "passerelle" / "examples", ignore=ignored)
    (folder / "passerelle" / ".venv").symlink_to(sys.prefix)
    ports = free_ports("8080", "9900", "5001", "5002")
    port, admin = ports["8080"], ports["9900"]
    file = folder / "passerelle/examples/shop/gateway.yaml"
    file.write_text(file.read_text().replace("8080", port).replace("9900", admin))
    environ = {
        "HOME": os.fspath(tmp_path),
        "LANG": "C.UTF-8",
        "PASSERELLE_ADMIN": f"127.0.0.1:{admin}",  # pages use the default, 9900
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    with Shell(folder, environ, ports) as found:
        yield found
