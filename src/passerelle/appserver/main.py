"""The process of one service instance: it serves one WSGI or ASGI application on one local port.

``python -m passerelle.appserver.main MODULE:ATTR --host 127.0.0.1 --port N [--interface wsgi|asgi|auto]``

The instance is this one process, so its signals and exit code are those of the instance. On SIGTERM or SIGINT, running
requests have ``GRACE`` seconds to finish. The exit code is then 0, or 1 if requests of a WSGI application were aborted.
Exit code 2 means that the application does not exist, :data:`STUCK` that no thread will be free again. WSGI
applications are served by :mod:`passerelle.appserver.server`, ASGI applications by uvicorn;
docs/decisions/002-application-server.md has the reasons.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import functools
import importlib
import inspect
import io
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from passerelle.appserver.thread_pool import EXTRA, STUCK_AFTER, THREADS
from passerelle.system import linux, startup
from passerelle.system.importing import hidden_file

GRACE = 10.0  # seconds
STUCK = 75  # EX_TEMPFAIL of sysexits.h; uvicorn uses 3 for a start-up that failed
INTERFACES = ("auto", "wsgi", "asgi")
_BACKLOG = 512


class AppLoadError(Exception):
    """The application does not exist. The text names what is missing."""


def command(
    app: str,
    host: str,
    port: int,
    interface: str = "auto",
    threads: int | None = None,
    stats_fd: int | None = None,
) -> list[str]:
    """Return the command line of an instance that serves ``app`` (``module:attribute``) on ``host:port``.

    ``stats_fd`` is the descriptor of a memory file (see :mod:`.thread_stats`).
    """
    more = [] if threads is None else ["--threads", str(threads)]
    if stats_fd is not None:
        more += ["--stats-fd", str(stats_fd)]
    # -P: only the application may import from its folder.
    module = [sys.executable, "-P", "-m", "passerelle.appserver.main"]
    return [*module, app, "--host", host, "--port", str(port), "--interface", interface, *more]


def load(app: str) -> Any:
    """Return the application ``app``: ``module:attribute`` or ``module:factory()``.

    The attribute may have dots. A factory is called, with the literals in parentheses as arguments.

    Raises:
        AppLoadError: ``app`` has another form, does not exist, or is not callable.
        Exception: what the module raises when it is imported.
    """
    module, _, attribute = app.partition(":")
    attribute, called, arguments = attribute.partition("(")
    if not module or not attribute:
        raise AppLoadError(f"{app!r} is not of the form module:attribute")
    given, named = _arguments(app, arguments) if called else ((), {})
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A failed import inside the module is reported with its traceback.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        missing = f"there is no module {error.name!r} in {os.getcwd()} or on the Python path"
        raise AppLoadError(missing + hidden_file(module)) from None
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppLoadError(f"module {module!r} has no attribute {attribute!r}{hidden_file(module)}") from None
    if called and callable(found):
        found = found(*given, **named)
    if not callable(found):
        raise AppLoadError(f"{app!r} is not an application: a {type(found).__name__} cannot be called")
    if _takes_nothing(found):
        if inspect.isroutine(found) or inspect.isclass(found) or isinstance(found, functools.partial):
            raise AppLoadError(f"{app!r} is not an application but makes one: write {app.partition('(')[0]}()")
        raise AppLoadError(f"{app!r} is not a WSGI or ASGI application: a {type(found).__name__} takes no request")
    return found


def _arguments(app: str, text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in ``text``, which ends with the closing parenthesis of the call in ``app``."""
    try:
        call = ast.parse(f"f({text}", mode="eval").body
        if isinstance(call, ast.Call):
            named = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
            if len(named) == len(call.keywords):
                return [ast.literal_eval(each) for each in call.args], named
    except (SyntaxError, ValueError):
        pass
    raise AppLoadError(f"{app!r} is not of the form module:factory(), with literals as arguments if any")


def _accepts(application: Any, number: int) -> bool | None:
    """Whether ``application`` can be called with ``number`` arguments; None if it has no signature (written in C)."""
    try:
        inspect.signature(application).bind(*[None] * number)
    except TypeError:
        return False
    except ValueError:
        return None
    return True


def _takes_nothing(application: Any) -> bool:
    """Return whether ``application`` can be called without arguments, as factories can.

    An application with an open signature (``*arguments``) is no factory.
    """
    if not _accepts(application, 0):
        return False
    return all(each.kind is not each.VAR_POSITIONAL for each in inspect.signature(application).parameters.values())


def detect(application: Any) -> str:
    """Return ``asgi`` or ``wsgi``, the interface of ``application``.

    An ASGI application is a coroutine function, an object whose ``__call__`` is one (Starlette, FastAPI, Quart,
    Django), a callable with three positional arguments, or a class with one (ASGI 2). A WSGI application has two.
    """
    call = application
    while isinstance(call, functools.partial):
        call = call.func
    if not inspect.isroutine(call) and not inspect.isclass(call):
        call = call.__call__
    if inspect.iscoroutinefunction(inspect.unwrap(call)):
        return "asgi"
    return "asgi" if _accepts(application, 2) is False else "wsgi"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to ``host:port`` that does not listen yet, so it refuses connections; raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def serve_wsgi(application: Any, sock: socket.socket, threads: int, stats_fd: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code.

    A stuck instance ends this process at once: it has no request that could finish.
    """
    import uvloop

    from passerelle.appserver.server import WsgiServer
    from passerelle.appserver.thread_stats import ThreadStats

    stats = ThreadStats(threads * EXTRA, stats_fd)

    async def serve() -> tuple[WsgiServer, bool, float]:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        server = WsgiServer(application, sock, threads=threads, stats=stats)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await server.start()
        stuck = loop.create_task(server.stuck.wait())
        stuck.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if server.stuck.is_set():
            _end_stuck()
        stuck.cancel()
        deadline = time.monotonic() + GRACE
        return server, await server.stop(GRACE), deadline

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server, whole, deadline = runner.run(serve())
    if whole:
        server.join(deadline - time.monotonic())
    return 0 if whole else 1


def _end_stuck() -> None:
    """End the process, without a wait for its threads."""
    print(
        f"appserver: each thread has worked for over {STUCK_AFTER:.0f} s for a client that is gone, and requests wait:"
        " this instance ends",
        file=sys.stderr,
        flush=True,
    )
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(STUCK)


def serve_asgi(application: Any, sock: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code."""
    import uvicorn
    from uvicorn.middleware.asgi2 import ASGI2Middleware

    from passerelle.appserver.asgi import AsgiConnection, WithEncodedSlashes
    from passerelle.appserver.server import IDLE_TIMEOUT

    host = sock.getsockname()[0]
    is_local = host.startswith("127.") or host == "::1"
    config = uvicorn.Config(
        # uvicorn does not see through functools.partial itself.
        WithEncodedSlashes(application if _accepts(application, 3) else ASGI2Middleware(application)),
        interface="asgi3",
        loop="uvloop",
        http=AsgiConnection,
        log_level="warning",
        access_log=False,
        server_header=False,
        # To a loopback address only the gateway connects, and the first address that it writes is the client's.
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", "*" if is_local else "127.0.0.1"),
        backlog=_BACKLOG,
        timeout_keep_alive=int(IDLE_TIMEOUT),
        timeout_graceful_shutdown=int(GRACE),
    )
    server = uvicorn.Server(config)

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    # These handlers serve for a signal before uvicorn installs its own, and after an orderly stop: uvicorn then raises
    # the signal again, which must not end the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[sock])
    return 0 if server.started else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the parent process is gone; return the exit code."""
    startup.open_standard_descriptors()
    parser = argparse.ArgumentParser(prog="passerelle.appserver.main", description="Serve one application.")
    parser.add_argument("app", metavar="MODULE:ATTR", help="a WSGI or ASGI application, such as users:app")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interface", choices=INTERFACES, default="auto")
    parser.add_argument(
        "--threads", type=int, help="number of requests that run at the same time (WSGI only; default: 4)"
    )
    parser.add_argument("--stats-fd", type=int, help="descriptor of a memory file for the numbers of the threads")
    options = parser.parse_args(arguments)
    if options.stats_fd is not None:
        os.set_inheritable(options.stats_fd, False)
    if options.threads is not None and options.threads < 1:
        parser.error("argument --threads: must be at least 1")

    startup.reset_signals()
    linux.die_with_parent(os.getppid(), signal.SIGTERM)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The parent process reads the output line by line.
        sys.stdout.reconfigure(line_buffering=True)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.path.append(os.getcwd())  # last, so that no file there takes the place of an installed module
    try:
        application = load(options.app)
    except AppLoadError as error:
        return _fail(2, str(error))
    except Exception as error:
        traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
        return _fail(1, f"{options.app!r} cannot be imported: {type(error).__name__}: {error}")
    remark = hidden_file(options.app.partition(":")[0])
    if remark:
        print(f"appserver: serving {options.app!r}{remark}", file=sys.stderr)
    interface = detect(application) if options.interface == "auto" else options.interface
    # Bound once the application is loaded, and listening once it has started up, so that a port that accepts
    # connections belongs to an instance that can respond.
    try:
        sock = bind(options.host, options.port)
    except (OSError, OverflowError) as error:
        return _fail(1, f"cannot listen on {options.host}:{options.port}: {error}")
    if interface == "wsgi":
        return serve_wsgi(application, sock, options.threads or THREADS, options.stats_fd)
    if options.threads is not None:
        print("appserver: threads have no effect: this is an ASGI application", file=sys.stderr)
    return serve_asgi(application, sock)


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return ``trace`` from the first frame of the application on; None if there is none, as for a syntax error."""
    first = trace
    while first is not None:
        name = first.tb_frame.f_code.co_filename
        if name not in (__file__, importlib.__file__) and not name.startswith("<frozen importlib"):
            return first
        first = first.tb_next
    return None


def _fail(code: int, text: str) -> int:
    print(f"appserver: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
