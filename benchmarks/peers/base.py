"""Interfaces of peers."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Site:
    """Place where a server is set up: its folder, its loopback port, and the upstreams behind it."""

    folder: Path
    port: int
    upstreams: Sequence[str]  # host:port

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        return file


@dataclass(frozen=True)
class Command:
    """Command that starts a server in the foreground."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Peer(Protocol):
    """Product that passerelle is compared with."""

    name: str

    def missing(self) -> str | None:
        """Return what to install, or ``None`` if nothing is missing."""

    def version(self) -> str:
        """Return the version as reported by the product."""


class Forwarder(Peer, Protocol):
    """Forwards ``/user/ID`` to one of three upstreams, with one thread and persistent connections on both sides."""

    def forward(self, site: Site) -> Command: ...


class Composer(Peer, Protocol):
    """Responds to ``/api/USER/PRODUCT`` with ``{"user": ..., "product": ...}``, composed of two upstream responses."""

    def compose(self, site: Site) -> Command: ...


class Streamer(Peer, Protocol):
    """Forwards bodies of any size in both directions without buffering them completely."""

    def stream(self, site: Site) -> Command: ...


def program(name: str) -> str:
    """Return the path of a program. Raises ``FileNotFoundError`` for a program that ``missing`` reports."""
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def lacks_program(name: str, package: str) -> str | None:
    """Return ``missing`` for a peer that is a program of the Linux distribution."""
    return None if shutil.which(name) else f"{name} (apt-get install {package})"


def lacks_modules(*packages: str) -> str | None:
    """Return ``missing`` for a peer that consists of Python packages, given their names on PyPI."""
    absent = []
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
    return f"pip install {' '.join(absent)}" if absent else None


def module_versions(*packages: str) -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def first_line(*command: str) -> str:
    """Return the first line that a program prints, on stdout or stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip().split("\n", 1)[0].strip()
