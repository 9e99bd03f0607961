"""The process of one gateway worker.

``python -m passerelle.supervisor.worker_main CONFIG --control-fd N [--listen-fd N] [--config-fd N]`` is started by the
supervisor; ``passerelle gateway CONFIG`` runs the same gateway alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from passerelle.config.loader import load, load_text
from passerelle.config.models.config import Config
from passerelle.errors import CannotGuard
from passerelle.gateway.gateway import Gateway, InstanceSpec
from passerelle.supervisor import control_channel
from passerelle.supervisor.control_channel import Message
from passerelle.system import descriptors, startup

GRACE = 10.0  # seconds that requests in flight get when the worker is told to stop


class StopRequest:
    """When to stop: asked by a signal, by the supervisor, or by its end. A second signal takes the grace away."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurry = asyncio.Event()
        self._signals = 0

    def on_signal(self) -> None:
        """SIGTERM or SIGINT came."""
        self._signals += 1
        if self._signals > 1:
            self.hurry.set()
        self.requested.set()

    def listen(self) -> None:
        """Take the signals."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)

    async def carry_out(self, gateway: Gateway, grace: float = GRACE) -> None:
        """Stop ``gateway``: within ``grace`` seconds, or at once when a second signal comes."""
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
    """What the supervisor can ask of a worker (see :mod:`passerelle.supervisor.control_channel`)."""

    def __init__(self, gateway: Gateway, listener: socket.socket | None, stop: StopRequest, file: str) -> None:
        self.server: control_channel.ControlServer | None = None
        self._gateway = gateway
        self._file = file
        self._listener = listener
        self._stop = stop
        self.table = {
            "start": self.start,
            "instances": self.instances,
            "reload": self.reload,
            "metrics": self.metrics,
            "status": self.status,
            "reopen": self.reopen,
            "purge": self.purge,
            "forget": self.forget,
            "drain": self.drain,
        }

    async def start(self, message: Message) -> dict[str, Any]:
        """Listen; with ``siblings``, what requests change is told to them by way of the supervisor."""
        if message["siblings"]:
            self._gateway.second_level.report_invalidations_to(self._send_invalidation)
        host, port = await self._gateway.start(self._listener)
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
        """Go by another configuration, with these instances; when it cannot be used, nothing changes."""
        config = _load(message["text"], self._file)
        listed = message["instances"].items()
        instances = {name: [InstanceSpec(**instance) for instance in of_service] for name, of_service in listed}
        self._gateway.reload(config, instances)
        tune_memory()

    async def metrics(self, message: Message) -> dict[str, Any]:
        """The counters."""
        return self._gateway.snapshot()

    async def status(self, message: Message) -> dict[str, Any]:
        """The instances as this worker sees them."""
        return {"pid": os.getpid(), "services": self._gateway.status(), "snapshots": self._gateway.service_snapshots()}

    async def reopen(self, message: Message) -> None:
        """Open the access log anew, after it was moved away."""
        self._gateway.reopen_log()

    async def purge(self, message: Message) -> int:
        """Let the cache go of what has a tag or a path, or of everything; how many items."""
        return self._gateway.purge(message["what"], message["value"])

    async def forget(self, message: Message) -> None:
        """Let the cache go of what a request to another worker has changed."""
        self._gateway.second_level.apply_invalidations(
            *([text.encode("latin-1") for text in message[of]] for of in ("keys", "tags"))
        )

    async def drain(self, message: Message) -> None:
        """Stop in order and exit; the answer comes before."""
        self._stop.requested.set()


def _load(text: str, file: str) -> Config:
    """What the supervisor has checked. Files and folders are looked for no more: the gateway opens what it needs, and
    a worker that is replaced must not miss what only a service needs."""
    return load_text(text, file, folder=Path(file).parent, elsewhere=True)


class CannotStart(Exception):
    """The gateway cannot be made; the text is one line for the user."""


def build(config: Config) -> Gateway:
    """:raises CannotStart: when the access log, or what guards need, cannot be opened."""
    try:
        return Gateway(config)
    except CannotGuard as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"access_log: cannot open {error.filename}: {error.strerror}") from error


def tune_memory() -> None:
    """Keep what was built for the whole life of the process out of the garbage collector's sight.

    Measured: a full collection stops a worker for 9 ms with 10 routes and 218 ms with 10,000; after this, for 0.0 ms.
    """
    gc.unfreeze()  # after a reload: what the last configuration built goes
    gc.collect()
    gc.freeze()


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine on uvloop; gives the code to exit with, which is the coroutine's or 1 for what cannot start."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1


def _texts(octets: Sequence[bytes]) -> list[str]:
    """Keys and tags may be any octets; JSON is text."""
    return [each.decode("latin-1") for each in octets]


async def serve(config: Config, file: str, control_fd: int, listen_fd: int | None) -> int:
    """Serve as the supervisor says, until it says stop or is gone."""
    stop = StopRequest()
    stop.listen()
    gateway = build(config)
    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else None
    streams = await control_channel.open_channel(socket.socket(fileno=control_fd))
    operations = WorkerOperations(gateway, listener, stop, file)
    server = operations.server = control_channel.ControlServer(*streams, operations.table)
    gateway.report_health_to(lambda event, service, key: server.send_event(event, service=service, instance=key))
    supervised = asyncio.create_task(server.run())
    supervised.add_done_callback(lambda task: stop.requested.set())
    await stop.requested.wait()
    await stop.carry_out(gateway)
    supervised.cancel()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker."""
    parser = argparse.ArgumentParser(prog="passerelle.supervisor.worker_main")
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--config-fd", type=int, help="read the configuration from here; CONFIG only names it")
    options = parser.parse_args(arguments)
    startup.reset_signals()
    descriptors.raise_limit()
    if options.config_fd is None:
        config = load(options.config)
    else:
        with open(options.config_fd, encoding="utf-8") as file:
            file.seek(0)
            config = _load(file.read(), options.config)
    return run(serve(config, options.config, options.control_fd, options.listen_fd))


if __name__ == "__main__":
    sys.exit(main())
