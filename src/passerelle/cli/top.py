"""``passerelle top``: the dashboard in a terminal."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

import click

from passerelle.cli.admin_client import (
    Destination,
    TokenRefused,
    admin_option,
    exit_unreachable,
    find_admin,
    request_admin,
)
from passerelle.cli.admin_messages import PAUSE, messages
from passerelle.cli.support import exit_negative
from passerelle.cli.top_screen import SORTS, View, screen
from passerelle.config.models.addresses import Address
from passerelle.supervisor.report import wants_colour

_POLL = 0.2  # seconds between checks of the size of the terminal
_WIDTH = 80  # columns if the output is not a terminal

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, the cursor (xterm)
_SCROLL = {b"\x1b[A": -1, b"\x1bOA": -1, b"k": -1, b"\x1b[B": 1, b"\x1bOB": 1, b"j": 1}
_PAGES = {b"\x1b[5~": -1, b"\x1b[6~": 1, b" ": 1}


@click.command(short_help="Show a running gateway live in the terminal.")
@click.option("--once", is_flag=True, help="Print the values of the last second and end; so does a pipe.")
@click.option(
    "--sort",
    type=click.Choice(["configured", "requests", "errors", "latency", "name"]),
    default="configured",
    show_default=True,
    help="The order of the tables.",
)
@admin_option
def top(once: bool, sort: str, admin: Address | str | None) -> None:
    """Show requests, latency, services, instances and routes of a running gateway, once a second.

    Keys: q quits; r, e, l, n and c sort by requests, errors, latency, name, and in the configured order; arrows scroll.
    """
    order = next(key for key, name in SORTS.items() if name.startswith(sort))
    destination = find_admin(admin)
    sample = request_admin(admin, "GET", "/live")
    where = _where(request_admin(admin, "GET", "/status"), destination)
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        width = shutil.get_terminal_size((_WIDTH, 24)).columns
        try:
            for line in screen(sample, where, "live", View(order), width, None, colour=wants_colour(sys.stdout)):
                click.echo(line)
        except BrokenPipeError:
            exit_negative()
        return
    feed = Feed(destination, sample)
    threading.Thread(target=feed.run, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt), _terminal():
        _watch(feed, where, View(order))
    if feed.refused is not None:
        exit_unreachable(destination, feed.refused)


def _where(status: dict[str, Any], destination: Destination) -> str:
    return f"{status.get('config') or ''}  {status.get('listen', '')}  admin {destination.address}"


def merge(value: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396 §2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), part)
    return result


class Feed:
    """Follows the live view in a thread. ``state`` is ``live``, or the reason why there is no connection.

    ``wake`` is the read end of a pipe with a byte whenever there is something new.
    """

    def __init__(self, destination: Destination, sample: dict[str, Any]) -> None:
        self.sample = sample
        self.state = "live"
        self.refused: TokenRefused | None = None
        self.wake, self._written = os.pipe()
        os.set_blocking(self._written, False)
        self._destination = destination
        self._stopped = threading.Event()

    def run(self) -> None:
        """Follow the stream; open it again when it is lost."""
        while not self._stopped.is_set():
            try:
                for name, data in messages(self._destination, "/live"):
                    if name in ("snapshot", "change"):
                        self.sample = data if name == "snapshot" else merge(self.sample, data)
                        self._notify("live")
                self._notify("connection lost, retrying")
            except TokenRefused as error:
                self.refused = error
                self._notify("the token was refused")
                return
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
                self._notify(f"{why.lower()[:40]}, retrying")
            self._stopped.wait(PAUSE)

    def _notify(self, state: str) -> None:
        self.state = state
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the reader wakes up anyway
            os.write(self._written, b"\0")


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Use the alternate screen and receive keys at once; restore the terminal at the end, also of SIGTERM."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Stopped, it would leave the terminal in this state.
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        tty.setcbreak(descriptor)
        sys.stdout.write(_ENTER)
        yield
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(feed: Feed, where: str, view: View) -> None:
    """Draw the screen whenever something has changed, until the user quits."""
    descriptor, colour, drawn = sys.stdin.fileno(), wants_colour(sys.stdout), os.terminal_size((0, 0))
    is_due = True
    while feed.refused is None:
        size = shutil.get_terminal_size((_WIDTH, 24))
        if is_due or size != drawn:
            # Not the last column: erasing the rest of a line would erase the character in it.
            lines = screen(feed.sample, where, feed.state, view, size.columns - 1, size.lines, colour=colour)
            # The lines overwrite the last ones: clearing the screen first would flicker.
            sys.stdout.write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")
            sys.stdout.flush()
            drawn, is_due = size, False
        ready, _, _ = select.select([descriptor, feed.wake], [], [], _POLL)
        if feed.wake in ready:
            os.read(feed.wake, 4096)
            is_due = True
        if descriptor in ready:
            key = os.read(descriptor, 16)
            if not key or key in (b"q", b"Q", b"\x1b"):
                return
            view, is_due = pressed(view, key, size.lines), True


def pressed(view: View, key: bytes, lines: int) -> View:
    """Return the view after a press of ``key``. ``lines`` is the height of the screen."""
    page = max(1, lines - 6)
    step = _SCROLL.get(key, 0) + page * _PAGES.get(key, 0)
    if step:
        return view._replace(offset=max(0, view.offset + step))
    name = key.decode("ascii", "replace").lower()
    return View(name) if name in SORTS else view
