"""The sockets for clients: bound for the listeners of a configuration, kept over reloads, passed to workers."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from itertools import count

from passerelle.config.checks.listeners import has_ipv4
from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config
from passerelle.config.models.listeners import Listener, PassedSocket
from passerelle.gateway.endpoints import BoundSocket
from passerelle.system import ports
from passerelle.system.systemd import PassedSockets

_Key = tuple[str, bool, int]
"""An address, whether it is for IPv6 alone, and the number of the same addresses before it: port 0 may be several."""


class _Bound:
    """What is bound for one listener: for each worker its sockets, with their keys."""

    def __init__(self, sockets: Sequence[Sequence[tuple[int, socket.socket]]], path: str | None, passed: bool) -> None:
        self.sockets = sockets
        self._path = path
        self._inode = os.stat(path).st_ino if path is not None else None
        self._passed = passed

    def close(self) -> None:
        """Close the sockets, and remove the file of a Unix socket. Those of systemd stay open: they are not ours."""
        if self._passed:
            return
        for each in self.sockets:
            for _, sock in each:
                sock.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)

    def set_mode(self, mode: int) -> None:
        """Change the permissions of a Unix socket."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.chmod(self._path, mode)

    @property
    def address(self) -> str:
        """The address, with the port that the kernel has chosen."""
        return ports.join(*ports.name_of(self.sockets[0][0][1]))


class Listeners:
    """The bound sockets of ``workers`` workers. ``passed`` are those of systemd."""

    # TCP sockets are one for each worker, between which the kernel balances connections. All workers accept on the same
    # Unix socket, and on the same sockets of systemd.

    def __init__(self, workers: int, passed: PassedSockets | None = None) -> None:
        self._workers = workers
        self._passed = passed or PassedSockets()
        self._keys = count()
        self._bound: dict[_Key, _Bound] = {}
        self._order: list[_Bound] = []

    def bind(self, config: Config) -> OpenedListeners:
        """Bind what the listeners of ``config`` need besides what is bound already. Nothing is closed yet.

        :raises PortTaken: if an address cannot be bound; then nothing has changed.
        """
        wanted: dict[_Key, _Bound] = {}
        added: list[_Bound] = []
        try:
            for listener in config.listen:
                address = listener.address
                only_ipv6 = address.host == "::" and has_ipv4(config.listen, address.port)
                number = sum(text == str(address) for text, _, _ in wanted)
                key = str(address), only_ipv6, number
                if key not in self._bound:
                    added.append(self._bind(listener, only_ipv6))
                wanted[key] = self._bound[key] if key in self._bound else added[-1]
            _refuse_shared(wanted)
        except BaseException:
            for each in added:
                each.close()
            raise
        return OpenedListeners(self, config, wanted, added)

    def _bind(self, listener: Listener, only_ipv6: bool) -> _Bound:
        address = listener.address
        if isinstance(address, PassedSocket):
            found = self._passed.named(address.host)
            if not found:
                raise ports.PortTaken(
                    f"systemd has passed no socket with the name {address.host}; start the socket unit with "
                    f"FileDescriptorName={address.host}"
                )
        else:
            found = self._passed.bound_to(lambda name: _is_at(address, name))[:1]
        if found:
            each = [(next(self._keys), sock) for sock in found]
            return _Bound([each] * self._workers, None, passed=True)
        if address.is_socket:
            sock = ports.for_local_clients(address.host, listener.permissions)
            return _Bound([[(next(self._keys), sock)]] * self._workers, address.host, passed=False)
        sockets = ports.for_clients(address.host, address.port, self._workers, only_ipv6=only_ipv6)
        key = next(self._keys)
        return _Bound([[(key, sock)] for sock in sockets], None, passed=False)

    def _adopt(self, config: Config, wanted: dict[_Key, _Bound]) -> None:
        for key, bound in self._bound.items():
            if key not in wanted:
                bound.close()
        self._bound = wanted
        self._order = list(wanted.values())
        for listener, bound in zip(config.listen, self._order, strict=True):
            bound.set_mode(listener.permissions)

    def for_worker(self, number: int) -> list[BoundSocket]:
        """Return the sockets of the worker with the index ``number``."""
        return _sockets_of(self._order, number)

    @property
    def addresses(self) -> list[str]:
        """The address of each listener, in the order of the file."""
        return [bound.address for bound in self._order]

    def describe(self, config: Config) -> str:
        """List the addresses with their schemes, for a message."""
        texts = []
        for listener, address in zip(config.listen, self.addresses, strict=True):
            scheme = "https" if config.is_secure(listener) else "http"
            text = f"{address} ({scheme})" if address.startswith("unix:") else f"{scheme}://{address}"
            texts.append(text if listener.https_redirect is None else f"{text} (redirects to https)")
        return ", ".join(texts)

    @property
    def unused(self) -> list[str]:
        """The names of the sockets of systemd that no listener uses."""
        used = {id(sock) for bound in self._order for each in bound.sockets for _, sock in each}
        return [name for name, sock in self._passed.all if id(sock) not in used]

    def close(self) -> None:
        """Close all sockets."""
        for bound in self._order:
            bound.close()
        self._bound, self._order = {}, []


class OpenedListeners:
    """The sockets for another configuration, before it is in force.

    At the end of a ``with`` statement, those that it has added are closed unless they were adopted.
    """

    def __init__(self, owner: Listeners, config: Config, wanted: dict[_Key, _Bound], added: list[_Bound]) -> None:
        self._owner = owner
        self._config = config
        self._wanted = wanted
        self._added = added

    def for_worker(self, number: int) -> list[BoundSocket]:
        """Return the sockets of the worker with the index ``number``."""
        return _sockets_of(list(self._wanted.values()), number)

    def adopt(self) -> None:
        """Close the sockets that are no longer configured."""
        self._added = []
        self._owner._adopt(self._config, self._wanted)

    def __enter__(self) -> OpenedListeners:
        return self

    def __exit__(self, *_: object) -> None:
        for bound in self._added:
            bound.close()


def _refuse_shared(wanted: dict[_Key, _Bound]) -> None:
    """Refuse two listeners with one socket of systemd: one by its name, the other by its address."""
    users: dict[int, str] = {}
    for (address, _, _), bound in wanted.items():
        for _, sock in bound.sockets[0]:
            if (other := users.setdefault(sock.fileno(), address)) != address:
                raise ports.PortTaken(f"{address} is a socket that {other} has already")


def _sockets_of(bound: Sequence[_Bound], number: int) -> list[BoundSocket]:
    return [BoundSocket(index, key, sock) for index, each in enumerate(bound) for key, sock in each.sockets[number]]


def _is_at(address: Address, name: object) -> bool:
    """Whether ``name``, as :meth:`socket.socket.getsockname` returns it, is ``address``."""
    if isinstance(name, tuple):
        return (address.host, address.port) == name[:2]
    return address.is_socket and address.host == (os.fsdecode(name) if isinstance(name, bytes) else name)
