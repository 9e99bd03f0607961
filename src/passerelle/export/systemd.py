"""Units of systemd that run the whole file: `passerelle up` with its services, and the sockets for clients."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from passerelle.config.checks.listeners import has_ipv4
from passerelle.config.models.addresses import Address
from passerelle.config.models.listeners import Listener, PassedSocket
from passerelle.config.problems import Finding, Loc
from passerelle.export.coverage import Coverage, Exported, NotApplicable
from passerelle.export.deployment import Deployment

COVERAGE = Coverage(
    {
        "Config.listen": Exported(),
        "Listener.address": Exported("`systemd:name` is a loss: its socket unit has the address"),
        "Listener.mode": Exported("a loss if Unix sockets have different permissions"),
        "Config.access_log": Exported(),
        "Config.user": Exported("a loss if it is not that of `--user`: the unit starts passerelle as that user"),
        "Config.group": Exported(),
        "Config.limits": Exported(),
        "Limits.connections": Exported(),
        "Config.keys": Exported(),
        "Keys.store": Exported(),
        "Config.sessions": Exported(),
        "Sessions.store": Exported(),
        "Config.state": Exported(),
        "Config.tls": Exported(),
        "ListenerTls.auto": Exported(),
    },
    NotApplicable("passerelle applies it from the file"),
)
"""What the export does with each key."""

SERVICE, SOCKET = "passerelle.service", "passerelle.socket"

_WATCHDOG_SECONDS = 30
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
    """Return the unit of the service, and what both units lose.

    ``program`` is the absolute path of passerelle, ``user`` runs it.
    """
    losses = list(COVERAGE.losses(deployment.config))
    if deployment.config.user not in (None, user):
        losses.append(Finding(("user",), f"the unit starts passerelle as {user}; see --user", at_key=True))
    why = "a unit of systemd has no paths with quotes or backslashes; the folder is not writable"
    losses += [Finding(loc, why) for loc, folder in _written(deployment) if not is_allowed(folder)]
    losses += _lost_sockets(deployment.config.listen)
    return "\n".join(_lines(deployment, program, user)) + "\n", losses


def socket_unit(deployment: Deployment) -> str | None:
    """Return the unit of the sockets, which stay open while the service restarts; None if there are none.

    passerelle binds the addresses itself that systemd cannot: names of hosts, and port 0.
    """
    listen = [each for each in deployment.config.listen if _is_static(each.address)]
    if not listen:
        return None
    lines = [f"# {deployment.header}", "[Unit]", "Description=Sockets of passerelle for clients", "", "[Socket]"]
    lines += [f"ListenStream={_path(_stream(each.address))}" for each in listen]
    wide = [each.address.port for each in listen if each.address.host == "::"]
    if wide:
        both = not any(has_ipv4(listen, port) for port in wide)
        lines.append(f"BindIPv6Only={'both' if both else 'ipv6-only'}")
    modes = [each.permissions for each in listen if each.address.is_socket]
    if modes:
        lines += [f"SocketMode={modes[0]:04o}", "RemoveOnStop=yes"]
    lines += ["Backlog=4096", "NoDelay=yes", "", "[Install]", "WantedBy=sockets.target"]
    return "\n".join(lines) + "\n"


def _stream(address: Address) -> str:
    return address.host if address.is_socket else str(address)


def _is_static(address: Address) -> bool:
    """Whether systemd can listen on the address."""
    if isinstance(address, PassedSocket):
        return False
    if address.is_socket:
        return True
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return address.port != 0


def _lost_sockets(listen: Sequence[Listener]) -> Iterator[Finding]:
    modes = [each.permissions for each in listen if each.address.is_socket]
    for index, each in enumerate(listen):
        if isinstance(each.address, PassedSocket):
            why = f"write a socket unit with FileDescriptorName={each.address.host} and Service={SERVICE}"
            yield Finding(("listen", index) if len(listen) > 1 else ("listen",), why)
        elif each.address.is_socket and each.permissions != modes[0]:
            yield Finding(("listen", index, "mode"), f"{SOCKET} has one SocketMode for all Unix sockets")


def _lines(deployment: Deployment, program: str, user: str) -> Iterator[str]:
    config = deployment.config
    file = os.fspath(deployment.folder / Path(deployment.file).name)
    yield f"# {deployment.header}"
    yield "[Unit]"
    yield "Description=passerelle, an API gateway with its services"
    yield "After=network-online.target"
    yield "Wants=network-online.target"
    sockets = socket_unit(deployment)
    if sockets is not None:
        yield f"Requires={SOCKET}"
        yield f"After={SOCKET}"
    for secret in deployment.secret_files:
        yield f"AssertPathExists={_path(deployment.path(Path(deployment.file).parent / secret))}"
    if (state := _state(deployment)) is not None and is_allowed(state):
        yield "# Weights of splits and rollouts are kept here."
        yield f"AssertPathExists={_path(state)}"
    yield ""
    yield "[Service]"
    yield "Type=notify"
    yield "# The first process of passerelle only ends what the others leave behind; its child reports the state."
    yield "NotifyAccess=all"
    yield f"WatchdogSec={_WATCHDOG_SECONDS}"
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
    if config.group is not None:
        yield f"Group={config.group}"
    yield f"WorkingDirectory={_path(os.fspath(deployment.folder))}"
    if deployment.variables:
        yield f"# Lines NAME=VALUE, readable by root only, for: {', '.join(deployment.variables)}"
        optional = "" if deployment.needs_variables else "-"  # "-": the file may be absent
        yield f"EnvironmentFile={optional}{_path(os.fspath(deployment.folder / 'environment'))}"
    yield f"LimitNOFILE={max(_DESCRIPTORS, 2 * config.limits.connections)}"
    yield ""
    if any(0 < each.address.port < 1024 for each in config.listen):
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
    if sockets is not None:
        yield f"Also={SOCKET}"


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
    orders = config.tls is not None and config.tls.auto is not None  # also with Redis: workers read files
    if config.state is None and not orders and (config.redis is not None or not config.splits):
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
