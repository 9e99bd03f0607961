"""What the rig wants to know of a peer."""

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
    """Where a server is set up: its folder, the loopback port that it shall listen on, what stands behind it."""

    folder: Path
    port: int
    upstreams: Sequence[str]  # host:port

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        return file


@dataclass(frozen=True)
class Command:
    """How a server is started; it stays in the foreground."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Peer(Protocol):
    """A product that we compare ourselves with."""

    name: str

    def missing(self) -> str | None:
        """What to install, or ``None`` when it is there."""

    def version(self) -> str:
        """As the product itself says it."""


class Forwarder(Peer, Protocol):
    """Passes ``/user/ID`` on to one of three upstreams, one thread, connections to both sides kept."""

    def forward(self, site: Site) -> Command: ...


class Composer(Peer, Protocol):
    """Answers ``/api/USER/PRODUCT`` with ``{"user": ..., "product": ...}`` out of two calls of the upstreams."""

    def compose(self, site: Site) -> Command: ...


class Streamer(Peer, Protocol):
    """Passes bodies of any size both ways without storing them."""

    def stream(self, site: Site) -> Command: ...


def program(name: str) -> str:
    """Where the program is. Raises ``FileNotFoundError`` for one that ``missing`` would have told of."""
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def lacks_program(name: str, package: str) -> str | None:
    """``missing`` of a peer that is a program of the distribution."""
    return None if shutil.which(name) else f"{name} (apt-get install {package})"


def lacks_modules(*packages: str) -> str | None:
    """``missing`` of a peer that is made of Python packages, by the names that pip knows."""
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
    """The first line that a program prints, on either channel."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip().split("\n", 1)[0].strip()
