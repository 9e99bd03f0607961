"""The process of one service instance: it serves one WSGI or ASGI application on one local port or Unix socket.

``python -m passerelle.appserver.main MODULE:ATTR --host 127.0.0.1 --port N [options]``

The instance is this one process, so its signals and exit code are those of the instance. On SIGTERM or SIGINT, running
requests have ``--grace`` seconds to finish. The exit code is then 0, or 1 if requests of a WSGI application were
aborted. Exit code 2 means that the application does not exist, :data:`STUCK` that no thread will be free again,
:data:`HUNG` that each thread is in a call that takes too long. An event loop that is blocked ends the process with 1.

WSGI applications are served by :mod:`passerelle.appserver.server`, ASGI applications by uvicorn;
docs/decisions/002-application-server.md has the reasons.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import importlib
import io
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from passerelle.appserver import loading
from passerelle.appserver.loading import AppLoadError, accepts, call_at_start, detect, load
from passerelle.appserver.options import ServerOptions
from passerelle.appserver.request_limit import counted_asgi, counted_wsgi, with_jitter
from passerelle.appserver.thread_pool import STREAMS, STUCK_AFTER, THREADS
from passerelle.appserver.thread_stats import ThreadStats
from passerelle.system import linux, startup
from passerelle.system.importing import hidden_file

GRACE = 10.0  # seconds
STUCK = 75  # EX_TEMPFAIL of sysexits.h; uvicorn uses 3 for a start-up that failed
HUNG = 70  # EX_SOFTWARE
INTERFACES = ("auto", "wsgi", "asgi")
_BACKLOG = 512
_BEAT = 1.0  # seconds between two proofs that the event loop runs, at most


def command(
    app: str,
    host: str,
    port: int,
    options: ServerOptions | None = None,
    stats_fd: int | None = None,
) -> list[str]:
    """Return the command line of an instance that serves ``app`` (``module:attribute``) on ``host:port``.

    With a ``host`` that begins with a slash, it listens on the Unix socket of that path. ``stats_fd`` is the descriptor
    of a memory file (see :mod:`.thread_stats`).
    """
    where = ["--socket", host] if host.startswith("/") else ["--host", host, "--port", str(port)]
    more = [] if stats_fd is None else ["--stats-fd", str(stats_fd)]
    # -P: only the application may import from its folder.
    module = [sys.executable, "-P", "-m", "passerelle.appserver.main"]
    return [*module, app, *where, *(options or ServerOptions()).words(), *more]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to ``host:port`` that does not listen yet, so it refuses connections; raises OSError.

    A ``host`` that begins with a slash is the path of a Unix socket, which only this user and root can connect to.
    """
    if host.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if host.startswith("/"):
            before = os.umask(0o177)
            try:
                sock.bind(host)
            finally:
                os.umask(before)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Watchdog:
    """Ends the process, with the stacks of its threads on standard error, if the event loop does not run for ``limit``.

    The interpreter's own thread does this (faulthandler), which needs no lock that a blocked call may hold.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self._loop = loop
        self._limit = limit
        self._beat()

    def _beat(self) -> None:
        faulthandler.dump_traceback_later(self._limit, exit=True)
        self._timer = self._loop.call_later(min(_BEAT, self._limit / 4), self._beat)

    def stop(self) -> None:
        """End the watch."""
        self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def serve_wsgi(application: Any, sock: socket.socket, options: ServerOptions, stats_fd: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code.

    A stuck or hung instance ends this process at once: it has no request that could finish.
    """
    import uvloop

    from passerelle.appserver.server import WsgiServer

    threads = options.threads or THREADS
    streams = threads * STREAMS if options.streams is None else options.streams
    stats = ThreadStats(threads + streams, stats_fd)
    limit, grace = options.worker_timeout, _grace(options)

    async def serve() -> tuple[WsgiServer, bool, float]:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        stop = _stopper(loop, stopped)
        served = application
        if options.max_requests is not None:
            most = with_jitter(options.max_requests, options.max_requests_jitter, random.randint)
            served = counted_wsgi(application, most, _on_worn(stats, stats_fd, stop))
        server = WsgiServer(
            served,
            sock,
            threads=threads,
            stats=stats,
            streams=streams,
            hung_after=limit,
            keep_host=options.keep_host,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await server.start()
        watchdog = Watchdog(loop, limit) if limit is not None else None
        ends = [loop.create_task(event.wait()) for event in (server.stuck, server.hung)]
        for end in ends:
            end.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if server.stuck.is_set():
            _end_stuck()
        if server.hung.is_set():
            await server.answer_hung()
            _end_hung(limit)
        for end in ends:
            end.cancel()
        deadline = time.monotonic() + grace
        whole = await server.stop(grace)
        if watchdog is not None:
            watchdog.stop()
        return server, whole, deadline

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server, whole, deadline = runner.run(serve())
    if whole:
        server.join(deadline - time.monotonic())
    return 0 if whole else 1


def _grace(options: ServerOptions) -> float:
    return GRACE if options.grace is None else options.grace


def _stopper(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> Callable[[], None]:
    """Return a function that sets ``stopped``, for any thread."""

    def stop() -> None:
        loop.call_soon_threadsafe(stopped.set)

    return stop


def _on_worn(stats: ThreadStats, stats_fd: int | None, stop: Callable[[], None]) -> Callable[[], None]:
    """Return what an instance does once it has reached ``max_requests``.

    A supervisor, which reads the memory file, replaces it. Without one the instance ends, and whatever has started it
    starts it again.
    """
    return stop if stats_fd is None else stats.set_worn


def _end_stuck() -> None:
    """End the process, without a wait for its threads."""
    _end(
        STUCK,
        f"each thread has worked for over {STUCK_AFTER:.0f} s for a client that is gone, and requests wait:"
        " this instance ends",
    )


def _end_hung(limit: float | None) -> None:
    """End the process, with the stacks of its threads on standard error."""
    faulthandler.dump_traceback(all_threads=True)
    _end(HUNG, f"each thread has been in one call for over {limit:g} s (worker_timeout): this instance ends")


def _end(code: int, reason: str) -> None:
    print(f"appserver: {reason}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def serve_asgi(application: Any, sock: socket.socket, options: ServerOptions, stats_fd: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code."""
    import uvicorn
    from uvicorn.middleware.asgi2 import ASGI2Middleware

    from passerelle.appserver.asgi import AsgiConnection, BehindGateway
    from passerelle.appserver.server import IDLE_TIMEOUT

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started and options.worker_timeout is not None:
                Watchdog(asyncio.get_running_loop(), options.worker_timeout)

    def stop(_number: int = 0, _frame: object = None) -> None:
        server.should_exit = True

    # uvicorn does not see through functools.partial itself.
    served: Any = application if accepts(application, 3) else ASGI2Middleware(application)
    if options.max_requests is not None:
        stats = ThreadStats(1, stats_fd)
        most = with_jitter(options.max_requests, options.max_requests_jitter, random.randint)
        served = counted_asgi(served, most, _on_worn(stats, stats_fd, stop))
    config = uvicorn.Config(
        BehindGateway(served, keep_host=options.keep_host),
        interface="asgi3",
        loop="uvloop",
        http=AsgiConnection,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # see gateway_peer.py
        backlog=_BACKLOG,
        timeout_keep_alive=int(IDLE_TIMEOUT),
        timeout_graceful_shutdown=max(1, round(_grace(options))),
    )
    server = Server(config)
    # These handlers serve for a signal before uvicorn installs its own, and after an orderly stop: uvicorn then raises
    # the signal again, which must not end the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[sock])
    faulthandler.cancel_dump_traceback_later()
    return 0 if server.started else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the parent process is gone; return the exit code."""
    startup.open_standard_descriptors()
    parser = argparse.ArgumentParser(prog="passerelle.appserver.main", description="Serve one application.")
    parser.add_argument("app", metavar="MODULE:ATTR", help="a WSGI or ASGI application, such as users:app")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket", metavar="PATH", help="listen on a Unix socket, in place of --port")
    parser.add_argument("--interface", choices=INTERFACES, default="auto")
    parser.add_argument(
        "--threads", type=int, help="number of requests that run at the same time (WSGI only; default: 4)"
    )
    parser.add_argument(
        "--streams", type=int, help="number of event streams and WebSockets besides (WSGI only; default: 3 a thread)"
    )
    parser.add_argument("--max-requests", type=int, help="number of requests after which the instance is replaced")
    parser.add_argument(
        "--max-requests-jitter", type=int, help="largest random number added to --max-requests (default: a tenth)"
    )
    parser.add_argument("--worker-timeout", type=float, help="seconds after which a hung instance ends")
    parser.add_argument("--grace", type=float, help="seconds for running requests at the end (default: 10)")
    parser.add_argument("--on-start", metavar="MODULE:FUNCTION", help="a function that is called once at the start")
    parser.add_argument("--keep-host", action="store_true", help="the Host of a request is not that of the client")
    parser.add_argument("--stats-fd", type=int, help="descriptor of a memory file for the numbers of the threads")
    given = parser.parse_args(arguments)
    if given.stats_fd is not None:
        os.set_inheritable(given.stats_fd, False)
    if given.port is None and given.socket is None:
        parser.error("the following arguments are required: --port")
    options = ServerOptions(**{name: getattr(given, name) for name in ServerOptions._fields})
    for name in ("threads", "max_requests", "worker_timeout"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"argument --{name.replace('_', '-')}: must be at least 1")

    startup.reset_signals()
    linux.die_with_parent(os.getppid(), signal.SIGTERM)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The parent process reads the output line by line.
        sys.stdout.reconfigure(line_buffering=True)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.path.append(os.getcwd())  # last, so that no file there takes the place of an installed module
    try:
        application = load(given.app)
    except AppLoadError as error:
        return _fail(2, str(error))
    except Exception as error:
        traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
        return _fail(1, f"{given.app!r} cannot be imported: {type(error).__name__}: {error}")
    remark = hidden_file(given.app.partition(":")[0])
    if remark:
        print(f"appserver: serving {given.app!r}{remark}", file=sys.stderr)
    if options.on_start is not None:
        try:
            call_at_start(options.on_start)
        except AppLoadError as error:
            return _fail(2, str(error))
        except Exception as error:
            traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
            return _fail(1, f"on_start {options.on_start!r} failed: {type(error).__name__}: {error}")
    interface = detect(application) if options.interface in (None, "auto") else options.interface
    # Bound once the application is loaded, and listening once it has started up, so that a port that accepts
    # connections belongs to an instance that can respond.
    where = given.socket or f"{given.host}:{given.port}"
    try:
        sock = bind(given.socket or given.host, given.port)
    except (OSError, OverflowError) as error:
        return _fail(1, f"cannot listen on {where}: {error}")
    if interface == "wsgi":
        return serve_wsgi(application, sock, options, given.stats_fd)
    for name in ("threads", "streams"):
        if getattr(options, name) is not None:
            print(f"appserver: {name} have no effect: this is an ASGI application", file=sys.stderr)
    return serve_asgi(application, sock, options, given.stats_fd)


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return ``trace`` from the first frame of the application on; None if there is none, as for a syntax error."""
    first = trace
    while first is not None:
        name = first.tb_frame.f_code.co_filename
        if name not in (__file__, loading.__file__, importlib.__file__) and not name.startswith("<frozen importlib"):
            return first
        first = first.tb_next
    return None


def _fail(code: int, text: str) -> int:
    print(f"appserver: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
