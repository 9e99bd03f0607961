"""The process of one service instance: it serves one WSGI or ASGI application on one local port.

``python -m passerelle.runner.appserver MODULE:ATTR --host 127.0.0.1 --port N [--interface wsgi|asgi|auto]``
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from granian import Granian
from granian.constants import Interfaces

INTERFACES = ("auto", "wsgi", "asgi")


def command(app: str, host: str, port: int, interface: str = "auto") -> list[str]:
    """Return the command line of an instance that serves ``app`` (``module:attribute``) on ``host:port``."""
    module = [sys.executable, "-m", "passerelle.runner.appserver"]
    return [*module, app, "--host", host, "--port", str(port), "--interface", interface]


def load(app: str) -> Any:
    """Return the application that ``app`` (``module:attribute``) names."""
    module, _, attribute = app.partition(":")
    return getattr(importlib.import_module(module), attribute)


def detect(application: Any) -> str:
    """Return ``asgi`` for a coroutine function or a callable object whose ``__call__`` is one, else ``wsgi``."""
    call = application if inspect.isroutine(application) else getattr(application, "__call__", None)  # noqa: B004
    return "asgi" if inspect.iscoroutinefunction(call) else "wsgi"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="passerelle.runner.appserver")
    parser.add_argument("app", metavar="MODULE:ATTR")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interface", choices=INTERFACES, default="auto")
    options = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())
    application = load(options.app)
    interface = detect(application) if options.interface == "auto" else options.interface
    server = Granian(
        options.app,
        address=options.host,
        port=options.port,
        interface=Interfaces(interface),
        blocking_threads=4 if interface == "wsgi" else None,
        log_enabled=False,
    )
    server.serve(target_loader=lambda *_: application)
    return 0


if __name__ == "__main__":
    sys.exit(main())
