"""The process of one gateway worker.

The supervisor starts it as ``python -m passerelle.supervisor.worker_start CONFIG --control-fd N --config-fd N
[--listen-fd N ...] --sockets-fd N``. ``passerelle gateway CONFIG`` runs the same gateway without a supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import uvloop

from passerelle.config.models.config import Config
from passerelle.errors import CannotStart
from passerelle.gateway.gateway import Gateway, InstanceSpec
from passerelle.observability.events import LogEvents
from passerelle.supervisor import control_channel
from passerelle.supervisor.control_channel import Message
from passerelle.supervisor.packed_config import unpack
from passerelle.supervisor.socket_channel import ReceivedSockets
from passerelle.system import descriptors, startup

GRACE = 10.0  # seconds to wait for requests in flight when the worker stops


class StopRequest:
    """The request to stop, by a signal, by the supervisor, or by the end of the supervisor.

    A second signal ends the grace period at once: it sets ``hurry``.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()
        self._signals = 0

    def on_signal(self) -> None:
        """Handle SIGTERM or SIGINT."""
        self._signals += 1
        if self._signals > 1:
            self.hurry.set()
        self.requested.set()

    def listen(self) -> None:
        """Install the signal handlers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)

    async def stop_gateway(self, gateway: Gateway, grace: float = GRACE) -> None:
        """Stop ``gateway`` within ``grace`` seconds, or at once on a second signal."""
        stopping = asyncio.create_task(gateway.stop(grace))
        hurry = asyncio.create_task(self.hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
            await gateway.stop(0.0)


class WorkerOperations:
    """The operations of the control channel (see :mod:`passerelle.supervisor.control_channel`)."""

    def __init__(self, gateway: Gateway, sockets: ReceivedSockets, stop: StopRequest) -> None:
        self.server: control_channel.ControlServer | None = None
        self._gateway = gateway
        self._sockets = sockets
        self._started = False
        self._stop = stop
        self.table = {
            "start": self.start,
            "instances": self.instances,
            "reload": self.reload,
            "metrics": self.metrics,
            "status": self.status,
            "live": self.live,
            "reopen": self.reopen,
            "purge": self.purge,
            "shadows": self.shadows,
            "splits": self.splits,
            "maintenance": self.maintenance,
            "challenges": self.challenges,
            "forget": self.forget,
            "drain": self.drain,
        }

    async def start(self, message: Message) -> dict[str, Any]:
        """Start to listen on ``sockets``, with the settings ``splits``.

        With ``siblings``, invalidations by requests are sent to the other workers.
        """
        if message["siblings"]:
            self._gateway.second_level.report_invalidations_to(self._send_invalidation)
        self._gateway.set_splits(message["splits"])
        host, port = await self._gateway.start(self._sockets.select(message["sockets"]))
        self._sockets.close_others(message["sockets"])  # of the start of the process, before a reload
        self._started = True
        tune_memory()
        return {"host": host, "port": port}

    def _send_invalidation(self, keys: Sequence[bytes], tags: Sequence[bytes]) -> None:
        if self.server is not None:
            self.server.send_event("forget", keys=_texts(keys), tags=_texts(tags))

    async def instances(self, message: Message) -> None:
        """Replace the instances of a service."""
        self._gateway.set_instances(
            message["service"],
            [InstanceSpec(**instance) for instance in message["instances"]],
        )

    async def reload(self, message: Message) -> None:
        """Apply a configuration, its instances and its sockets. If it cannot be applied, nothing changes."""
        config = unpack(message["config"])
        listed = message["instances"].items()
        instances = {name: [InstanceSpec(**instance) for instance in specs] for name, specs in listed}
        sockets = self._sockets.select(message["sockets"])
        self._gateway.reload(config, instances, message["splits"])
        if self._started:
            await self._gateway.listen(sockets)
        self._sockets.close_others(message["sockets"])
        tune_memory()

    async def metrics(self, message: Message) -> dict[str, Any]:
        """Return the counters."""
        return self._gateway.snapshot()

    async def status(self, message: Message) -> dict[str, Any]:
        """Return the instances as this worker sees them, and the state of each service."""
        return {"pid": os.getpid(), "services": self._gateway.status(), "snapshots": self._gateway.service_snapshots()}

    async def live(self, message: Message) -> dict[str, Any]:
        """Return the sums for the live view, with ``full`` those that have not changed as well."""
        return self._gateway.live(full=message["full"])

    async def reopen(self, message: Message) -> None:
        """Reopen the access log, after log rotation has moved it."""
        self._gateway.reopen_log()

    async def purge(self, message: Message) -> int:
        """Evict the stored responses with a tag or a path, or all. Returns their number."""
        return self._gateway.purge(message["what"], message["value"])

    async def shadows(self, message: Message) -> dict[str, Any]:
        """Return what the shadow requests of each route found, with ``reset`` for the last time."""
        return self._gateway.shadows(reset=message["reset"])

    async def splits(self, message: Message) -> None:
        """Apply the weights and thresholds of splits (see :meth:`passerelle.gateway.gateway.Gateway.set_splits`)."""
        self._gateway.set_splits(message["splits"])

    async def maintenance(self, message: Message) -> None:
        """Refuse the requests to these routes (null: to all), and to no others."""
        routes = message["routes"]
        self._gateway.set_maintenance(None if routes is None else frozenset(routes))

    async def challenges(self, message: Message) -> None:
        """Respond to these challenges of orders for certificates, and to no others."""
        self._gateway.set_challenges(message["pending"])

    async def forget(self, message: Message) -> None:
        """Evict what a request to another worker has invalidated."""
        self._gateway.second_level.apply_invalidations(
            *([text.encode("latin-1") for text in message[field]] for field in ("keys", "tags"))
        )

    async def drain(self, message: Message) -> None:
        """Begin to stop in order. The reply is sent before the process exits."""
        self._stop.requested.set()


def build(config: Config, stderr: int = 2) -> Gateway:
    """Build the gateway of ``config``; ``stderr`` is the descriptor of ``access_log: stderr``.

    :raises CannotStart: if the access log, or a file that guards need, cannot be opened.
    """
    try:
        return Gateway(config, stderr)
    except OSError as error:
        raise CannotStart(f"access_log: cannot open {error.filename}: {error.strerror}") from error


def tune_memory() -> None:
    """Exclude the objects of the configuration from garbage collection (:func:`gc.freeze`).

    Measured: a full collection stops a worker for 9 ms with 10 routes and 218 ms with 10,000; with this, for 0.0 ms.
    """
    gc.unfreeze()  # after a reload: collect the objects of the previous configuration
    gc.collect()
    gc.freeze()


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run ``work`` on uvloop. Returns its exit code, or 1 on :class:`CannotStart`."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1


def _texts(octets: Sequence[bytes]) -> list[str]:
    """Convert keys and tags, which may be any octets, to text for JSON."""
    return [each.decode("latin-1") for each in octets]


async def serve(config: Config, control_fd: int, sockets: ReceivedSockets, stderr: int = 2) -> int:
    """Serve under the control of the supervisor, until it requests a stop or is gone. Returns the exit code."""
    stop = StopRequest()
    stop.listen()
    gateway = build(config, stderr)
    streams = await control_channel.open_channel(socket.socket(fileno=control_fd))
    operations = WorkerOperations(gateway, sockets, stop)
    server = operations.server = control_channel.ControlServer(*streams, operations.table)
    gateway.report_health_to(lambda event, service, key: server.send_event(event, service=service, instance=key))

    def report(kind: str, service: str | None, text: str) -> None:
        server.send_event("report", kind=kind, service=service, text=text)

    gateway.report_events_to(report)
    # Other threads log as well, such as that of the access log.
    loop = asyncio.get_running_loop()
    logging.getLogger("passerelle").addHandler(
        LogEvents(lambda kind, text: loop.call_soon_threadsafe(report, kind, None, text))
    )
    supervised = asyncio.create_task(server.run())
    supervised.add_done_callback(lambda task: stop.requested.set())
    await stop.requested.wait()
    await stop.stop_gateway(gateway)
    supervised.cancel()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="passerelle.supervisor.worker_start")
    parser.add_argument("config", metavar="CONFIG", help="name of the configuration, for lists of processes")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", action="append", default=[], metavar="KEY:N", help="bound socket, with its key")
    parser.add_argument("--sockets-fd", type=int, required=True, help="where further sockets are received")
    parser.add_argument("--log-fd", type=int, default=2, help="standard error of the supervisor, for the access log")
    parser.add_argument("--config-fd", type=int, required=True, help="file descriptor with the packed configuration")
    options = parser.parse_args(arguments)
    startup.reset_signals()
    descriptors.raise_limit()
    with open(options.config_fd, encoding="ascii") as file:
        file.seek(0)
        config = unpack(file.read())
    pairs = (word.split(":") for word in options.listen_fd)
    given = {int(key): int(descriptor) for key, descriptor in pairs}
    return run(serve(config, options.control_fd, ReceivedSockets(given, options.sockets_fd), options.log_fd))
