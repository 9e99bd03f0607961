"""The user and the group that all processes run as once the ports are bound.

Root opens the ports, reads keys and certificates that only root can read, and makes the folder for state and the access
log for the new user. Then it gives up all other rights for good (setresuid(2)): nothing that only root can open can be
opened again.
"""

from __future__ import annotations

import grp
import os
import pwd
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from passerelle.config.checks import PartialConfig, errors
from passerelle.config.models.base import Model
from passerelle.config.models.config import Config
from passerelle.config.problems import key_of
from passerelle.errors import CannotStart
from passerelle.supervisor.reaper import DROP
from passerelle.supervisor.store_choice import DEFAULT_FOLDER
from passerelle.system import linux

_KEY_FILES = ("tls", "jwt", "identity_token")
_MOST = 4 << 20  # bytes of a key file
_dropped: list[str] = []

KEPT: list[int] = []
"""Descriptors of the copies; workers inherit them under the same numbers, instances of services do not."""


class Identity(NamedTuple):
    """A user by name and number, its group, and all groups that its processes belong to."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def wanted_identity(config: Config) -> Identity | None:
    """Return what to drop to; None if the file names no user, or this process already runs as that user.

    :raises CannotStart: if there is no such user or group, or this process may not become that user.
    """
    if config.user is None:
        return None
    try:
        user = pwd.getpwnam(config.user)
    except KeyError:
        raise CannotStart(f"user: there is no user {config.user} on this machine") from None
    try:
        gid = user.pw_gid if config.group is None else grp.getgrnam(config.group).gr_gid
    except KeyError:
        raise CannotStart(f"group: there is no group {config.group} on this machine") from None
    if os.geteuid() != 0:
        if (os.geteuid(), os.getegid()) == (user.pw_uid, gid):
            return None
        text = f"user: only root can become {config.user}; start passerelle as root or as {config.user}"
        raise CannotStart(text + (f" with the group {config.group}" if config.group is not None else ""))
    return Identity(user.pw_name, user.pw_uid, gid, tuple(os.getgrouplist(user.pw_name, gid)), user.pw_dir)


def drop_all(identity: Identity, config: Config, folder: Path) -> Config:
    """Drop to ``identity`` in a supervisor whose parent is the reaper, which drops as well. See :func:`drop`."""
    return drop(identity, config, folder, lambda: os.kill(os.getppid(), DROP))


def drop(identity: Identity, config: Config, folder: Path, announce: Callable[[], None] = lambda: None) -> Config:
    """Run as ``identity`` from now on. Returns ``config`` with files that only root can read in memory (memfd).

    ``folder`` is that of the configuration file. ``announce`` is called immediately before the rights are given up.

    :raises CannotStart: if a file cannot be read or written afterwards.
    """
    keys = _open_keys(config)
    try:
        _own_state(identity, config, folder)
        _own_log(identity, config)
        _own_sockets(identity, config)
    except OSError as error:
        raise CannotStart(f"user: cannot prepare {error.filename} for {identity.name}: {error.strerror}") from error
    announce()
    become(identity)
    config = _with_keys(config, keys)
    for finding in errors(PartialConfig.of(config)):
        if finding.here:
            raise CannotStart(f"{key_of(finding.loc)}: {finding.message} (as the user {identity.name})")
    return config


def become(identity: Identity) -> None:
    """Give up all rights but those of ``identity``."""
    ends_with_parent = linux.parent_death_signal()
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    # The kernel takes both away with the rights of root: /proc/self belonged to root, and the signal was cleared.
    linux.allow_own_proc()
    if ends_with_parent:
        linux.die_with_parent(os.getppid(), signal.Signals(ends_with_parent))
    os.environ.update({"HOME": identity.home, "USER": identity.name, "LOGNAME": identity.name})
    _dropped.append(identity.name)


def dropped_to() -> str | None:
    """Return the name of the user that this process has dropped to."""
    return _dropped[-1] if _dropped else None


def _own_state(identity: Identity, config: Config, folder: Path) -> None:
    """Make the folder for state, if it is needed, and give it with its files to the user."""
    state = config.state if config.state is not None else folder / DEFAULT_FOLDER
    orders = config.tls is not None and config.tls.auto is not None  # also with Redis: workers read files
    if config.state is None and not orders and (config.redis is not None or not config.splits) and not state.exists():
        return
    state.mkdir(mode=0o750, parents=True, exist_ok=True)
    place = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give_folder(place, identity, config.certificates_folder.name)
    finally:
        os.close(place)


def _give_folder(place: int, identity: Identity, inner: str = "") -> None:
    """Give a folder of root with its files to the user, and its folder ``inner`` with its files."""
    _give(place, identity)
    for name in os.listdir(place):
        with suppress(OSError):  # a symbolic link, or a socket
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            try:
                if name == inner and stat.S_ISDIR(os.fstat(file).st_mode):
                    _give_folder(file, identity)
                else:
                    _give(file, identity)
            finally:
                os.close(file)


def _own_sockets(identity: Identity, config: Config) -> None:
    """Give the Unix sockets of listeners to the user, so that programs of its group can connect."""
    for each in config.listen:
        if each.address.is_socket:
            found = os.lstat(each.address.host)
            if found.st_uid == 0 and stat.S_ISSOCK(found.st_mode):
                os.chown(each.address.host, identity.uid, identity.gid, follow_symlinks=False)


def _give(file: int, identity: Identity) -> None:
    """Give a folder or file of root to the user. A file with another name elsewhere is left alone."""
    found = os.fstat(file)
    plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    if found.st_uid == 0 and (plain or stat.S_ISDIR(found.st_mode)):
        os.fchown(file, identity.uid, identity.gid)


def _own_log(identity: Identity, config: Config) -> None:
    """Create the access log for the user, whose folder may be root's; a file that exists keeps its owner."""
    if isinstance(config.access_log, Path):
        with suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(config.access_log, flags, 0o640)
            try:
                os.fchown(file, identity.uid, identity.gid)
            finally:
                os.close(file)


@dataclass(frozen=True, slots=True)
class _Key:
    path: Path
    data: bytes


def _paths(model: Model) -> Iterator[Path]:
    for key in type(model).model_fields:
        value = getattr(model, key)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Path):
                yield each
            elif isinstance(each, Model):
                yield from _paths(each)


def _key_blocks(config: Config) -> Iterator[Model]:
    yield from (block for name in _KEY_FILES if (block := getattr(config, name)) is not None)
    yield from (service.tls for service in config.services.values() if service.tls is not None)


def _open_keys(config: Config) -> list[_Key]:
    """Read all keys and certificates, while root can. Whatever cannot be read is reported by the checks."""
    found = []
    for path in dict.fromkeys(path for block in _key_blocks(config) for path in _paths(block)):
        with suppress(OSError), path.open("rb") as file:
            found.append(_Key(path, file.read(_MOST)))
    return found


def _with_keys(config: Config, keys: list[_Key]) -> Config:
    """Replace the paths of keys that cannot be read any more by those of copies in memory, which processes inherit."""
    copies: dict[Path, Path] = {}
    for key in keys:
        if not os.access(key.path, os.R_OK):
            copy = os.memfd_create("key")
            os.write(copy, key.data)
            KEPT.append(copy)
            copies[key.path] = Path(f"/proc/self/fd/{copy}")
    if not copies:
        return config
    blocks = {name: _replaced(block, copies) for name in _KEY_FILES if (block := getattr(config, name)) is not None}
    services = {
        name: service if service.tls is None else service.model_copy(update={"tls": _replaced(service.tls, copies)})
        for name, service in config.services.items()
    }
    return config.model_copy(update={**blocks, "services": services})


def _replaced(model: Model, copies: dict[Path, Path]) -> Model:
    def of(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(of, value))
        if isinstance(value, Path):
            return copies.get(value, value)
        return _replaced(value, copies) if isinstance(value, Model) else value

    return model.model_copy(update={key: of(getattr(model, key)) for key in model.model_fields_set})
