"""A unit of systemd that runs the whole file: `passerelle up` with its services."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from passerelle.config.problems import Finding, Loc
from passerelle.export.coverage import Coverage, Exported, NotApplicable
from passerelle.export.deployment import Deployment

COVERAGE = Coverage(
    {
        "Config.listen": Exported(),
        "Config.access_log": Exported(),
        "Config.limits": Exported(),
        "Limits.connections": Exported(),
        "Config.keys": Exported(),
        "Keys.store": Exported(),
        "Config.sessions": Exported(),
        "Sessions.store": Exported(),
        "Config.state": Exported(),
    },
    NotApplicable("passerelle applies it from the file"),
)
"""What the export does with each key."""

_STOP_SECONDS = 30  # passerelle needs at most 10 s for requests and 10 s for services
_DESCRIPTORS = 65536
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+-]+").fullmatch

_HARDENING = """
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0027
"""


def is_allowed(path: str) -> bool:
    """Whether a unit can have the path: directives differ in how they read quotes and backslashes."""
    return path.isprintable() and not set(path) & set("\"'\\")


def export(deployment: Deployment, program: str, user: str) -> tuple[str, Sequence[Finding]]:
    """Return the unit, and what is lost. ``program`` is the absolute path of passerelle, ``user`` runs it."""
    losses = list(COVERAGE.losses(deployment.config))
    why = "a unit of systemd has no paths with quotes or backslashes; the folder is not writable"
    losses += [Finding(loc, why) for loc, folder in _written(deployment) if not is_allowed(folder)]
    return "\n".join(_lines(deployment, program, user)) + "\n", losses


def _lines(deployment: Deployment, program: str, user: str) -> Iterator[str]:
    config = deployment.config
    file = os.fspath(deployment.folder / Path(deployment.file).name)
    yield f"# {deployment.header}"
    yield "[Unit]"
    yield "Description=passerelle, an API gateway with its services"
    yield "After=network-online.target"
    yield "Wants=network-online.target"
    for secret in deployment.secret_files:
        yield f"AssertPathExists={_path(deployment.path(Path(deployment.file).parent / secret))}"
    if (state := _state(deployment)) is not None and is_allowed(state):
        yield "# Weights of splits and rollouts are kept here."
        yield f"AssertPathExists={_path(state)}"
    yield ""
    yield "[Service]"
    yield f"ExecStartPre={_words(program, 'check', file)}"
    yield f"ExecStart={_words(program, 'up', file)}"
    yield "ExecReload=/bin/kill -HUP $MAINPID"
    yield "# The gateway finishes requests, and then stops the services itself."
    yield "KillMode=mixed"
    grace = max((service.grace or 0.0 for service in deployment.config.services.values()), default=0.0)
    yield f"TimeoutStopSec={max(_STOP_SECONDS, math.ceil(grace) + 20)}"
    yield "Restart=on-failure"
    yield "RestartSec=1"
    yield f"User={user}"
    yield f"WorkingDirectory={_path(os.fspath(deployment.folder))}"
    if deployment.variables:
        yield f"# Lines NAME=VALUE, readable by root only, for: {', '.join(deployment.variables)}"
        optional = "" if deployment.needs_variables else "-"  # "-": the file may be absent
        yield f"EnvironmentFile={optional}{_path(os.fspath(deployment.folder / 'environment'))}"
    yield f"LimitNOFILE={max(_DESCRIPTORS, 2 * config.limits.connections)}"
    yield ""
    if config.listen.port < 1024 and config.listen.port:
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
        yield "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"
    else:
        yield "CapabilityBoundingSet="
    yield from _HARDENING.strip().splitlines()
    yield "# The folders of the access log and of stores. Add those that services write to."
    for folder in sorted({folder for _, folder in _written(deployment) if is_allowed(folder)}):
        yield f"ReadWritePaths={_word(folder)}"
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _written(deployment: Deployment) -> Iterator[tuple[Loc, str]]:
    """Yield the folders that passerelle itself writes to, with the keys that name them."""
    config = deployment.config
    files: dict[Loc, object] = {("access_log",): config.access_log}
    if config.keys is not None:
        files["keys", "store"] = config.keys.store
    if config.sessions is not None:
        files["sessions", "store"] = config.sessions.store
    for loc, file in files.items():
        if isinstance(file, Path):
            yield loc, os.path.dirname(deployment.path(file))
    if (state := _state(deployment)) is not None:
        yield ("state",), state


def _state(deployment: Deployment) -> str | None:
    """Return the folder for what is kept about splits; None if nothing is kept there."""
    config = deployment.config
    if config.state is None and (config.redis is not None or not config.splits):
        return None
    return deployment.path(config.state if config.state is not None else Path(deployment.file).parent / ".passerelle")


def _words(*words: str) -> str:
    """Write a command: systemd replaces `%` and `$` in it and splits it at blanks."""
    return " ".join(_word(word.replace("$", "$$")) for word in words)


def _path(text: str) -> str:
    """Write the only path of a directive: the whole line is the path, and systemd replaces `%` in it."""
    return text.replace("%", "%%")


def _word(text: str) -> str:
    if _PLAIN(text):
        return text
    return '"' + text.replace("%", "%%") + '"'
