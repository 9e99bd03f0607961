"""Calls of one plugin: in a thread or on the event loop, within a timeout, with counters and errors that stay inside.

Whatever a plugin does, a call ends exactly once: with a result, or with a :class:`~passerelle.errors.Failure` of kind
``plugin_failed`` (it raised, or returned what it must not) or ``plugin_timeout`` (it took too long, or too many calls
are running). The traceback of an error is logged at most once a minute for each place that raises it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from passerelle.errors import Failure, Kind
from passerelle.observability.metrics import PluginMetrics
from passerelle.plugin_host.threads import ThreadPool

if TYPE_CHECKING:
    from passerelle.plugin_host.loading import LoadedPlugin

MOST_RUNNING = 1024
"""The number of calls of one plugin that may run at the same time; more are refused."""
QUIET = 60.0
"""The least time between two logs of the same error (seconds)."""
RETRY = 5.0
"""How long after a failed ``start`` the next one is tried, by the next call (seconds)."""
BLOCKING = 0.1
"""How long a coroutine may occupy the event loop at once before it is reported (seconds)."""
_MOST_PLACES = 64

_log = logging.getLogger("passerelle")


class PluginCall:
    """One call of a plugin. ``result`` is valid if ``failure`` is None, once ``completed`` is true."""

    __slots__ = ("_callback", "_started", "_timer", "arguments", "completed", "failure", "result", "runner", "task")

    def __init__(self, runner: PluginRunner, arguments: tuple[Any, ...]) -> None:
        self.runner = runner
        self.arguments = arguments
        self.completed = False
        self.failure: Failure | None = None
        self.result: Any = None
        self.task: asyncio.Task[Any] | None = None
        self._callback: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = perf_counter()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the call has ended."""
        self._callback = callback

    def limit(self, loop: asyncio.AbstractEventLoop, seconds: float, expired: Callable[[], None]) -> None:
        """Call ``expired`` after ``seconds``, unless the call has ended before."""
        self._timer = loop.call_later(seconds, expired)

    def end(self, result: Any, failure: Failure | None) -> bool:
        """End the call, and return whether it had not ended before."""
        if self.completed:
            return False
        self.completed = True
        self.result, self.failure = result, failure
        if self._timer is not None:
            self._timer.cancel()
        self.runner.metrics.observe(perf_counter() - self._started)
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
        return True


class PluginRunner:
    """Runs one plugin, ``name`` in the configuration. ``timeout`` is in seconds, ``threads`` are for functions."""

    def __init__(
        self,
        name: str,
        plugin: LoadedPlugin,
        loop: asyncio.AbstractEventLoop,
        metrics: PluginMetrics,
        timeout: float,
        threads: int,
    ) -> None:
        self.name = name
        self.metrics = metrics
        self.stopped = asyncio.Event()
        self._plugin = plugin
        self._loop = loop
        self._timeout = timeout
        self._running = 0
        self._pool = ThreadPool(name, threads)
        self._ready = plugin.start is None
        self._starting = False
        self._next_start = 0.0
        self._waiting: list[PluginCall] = []
        self._stopping = False
        self._stop_runs = False
        self._logged: dict[object, tuple[float, int]] = {}
        self._hooks: set[asyncio.Task[None]] = set()  # the event loop keeps weak references only

    def start(self) -> None:
        """Run the hook ``start``; calls wait for its end."""
        if not self._ready and not self._starting:
            self._starting = True
            assert self._plugin.start is not None
            self._run_hook(self._plugin.start, self._on_started)

    def stop(self) -> None:
        """Run the hook ``stop``, once no call is running. Does nothing after the first call."""
        if not self._stopping:
            self._stopping = True
            self._stop_if_idle()

    def run(self, *arguments: Any) -> PluginCall:
        """Call the plugin. The call may have ended when it is returned."""
        call = PluginCall(self, arguments)
        if self._running >= MOST_RUNNING:
            self.metrics.count("busy")
            call.end(None, Failure(Kind.PLUGIN_TIMEOUT, f"{self.name}: {MOST_RUNNING} calls are running"))
            return call
        if not (self._ready or self._starting) and monotonic() < self._next_start:
            self.metrics.count("error")
            call.end(None, Failure(Kind.PLUGIN_FAILED, f"{self.name}: cannot start"))
            return call
        self._running += 1
        if self._ready:
            self._dispatch(call)
        else:
            self._waiting.append(call)
            self.start()
        if not call.completed:
            call.limit(self._loop, self._timeout, partial(self._on_timeout, call))
        return call

    def refuse_result(self, text: str) -> Failure:
        """Count and log that a result cannot be used, and return the failure."""
        self.metrics.count("error")
        self._log_error(text, f"plugin {self.name}: {text}", None)
        return Failure(Kind.PLUGIN_FAILED, f"{self.name}: {text}")

    # ---- running

    def _dispatch(self, call: PluginCall) -> None:
        mode, function = self._plugin.mode, self._plugin.function
        if mode == "inline":
            before = perf_counter()
            try:
                function(*call.arguments).send(None)
            except StopIteration as done:
                self._end(call, done.value, None)
            except BaseException as error:
                self._end(call, None, error)
            self._note_blocking(perf_counter() - before)
        elif mode == "task":
            try:
                task = self._loop.create_task(self._contained(function(*call.arguments)))
            except Exception as error:
                self._end(call, None, error)
                return
            call.task = task
            task.add_done_callback(partial(self._on_task, call))
        elif not self._pool.submit(partial(self._run_in_thread, call)):
            self._running -= 1
            self.metrics.count("busy")
            call.end(None, Failure(Kind.PLUGIN_TIMEOUT, f"{self.name}: too many calls wait for a thread"))

    @staticmethod
    async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except (SystemExit, KeyboardInterrupt) as error:  # which would end the worker
            raise RuntimeError(f"the plugin raised {type(error).__name__}") from error

    def _on_task(self, call: PluginCall, task: asyncio.Task[Any]) -> None:
        call.task = None
        if task.cancelled():
            self._end(call, None, asyncio.CancelledError("the plugin cancelled itself"))
        elif (error := task.exception()) is not None:
            self._end(call, None, error)
        else:
            self._end(call, task.result(), None)

    def _run_in_thread(self, call: PluginCall) -> None:
        result, error = None, None
        if not call.completed:  # it may have waited for a thread for too long
            try:
                result = self._plugin.function(*call.arguments)
            except BaseException as raised:
                error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end, call, result, error)

    def _end(self, call: PluginCall, result: Any, error: BaseException | None) -> None:
        """Take the result of a function that has returned, also after the timeout of its call."""
        self._running -= 1
        if not call.completed:
            if error is None:
                call.end(result, None)
            else:
                self.metrics.count("error")
                place = _place(error)
                self._log_error(place, f"plugin {self.name} failed", error)
                call.end(None, Failure(Kind.PLUGIN_FAILED, f"{self.name}: {type(error).__name__}"))
        self._stop_if_idle()

    def _on_timeout(self, call: PluginCall) -> None:
        self.metrics.count("timeout")
        if call in self._waiting:  # its function was not called
            self._waiting.remove(call)
            self._running -= 1
        call.end(None, Failure(Kind.PLUGIN_TIMEOUT, f"{self.name}: no result after {self._timeout:g} s"))
        if call.task is not None:
            call.task.cancel()
        self._log_error("timeout", f"plugin {self.name} gave no result within {self._timeout:g} s", None)

    # ---- hooks

    def _run_hook(self, hook: Callable[[], Any], done: Callable[[BaseException | None], None]) -> None:
        """Run ``hook`` in a thread, or on the loop if it is a coroutine function, and call ``done`` with its error."""

        async def run() -> None:
            found = await self._in_thread(hook) if not asyncio.iscoroutinefunction(hook) else hook()
            if asyncio.iscoroutine(found):
                await found

        def on_done(task: asyncio.Task[None]) -> None:
            self._hooks.discard(task)
            done(asyncio.CancelledError() if task.cancelled() else task.exception())

        task = self._loop.create_task(self._contained(run()))
        self._hooks.add(task)
        task.add_done_callback(on_done)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except Exception as raised:
                error = raised
            except BaseException as raised:
                error = RuntimeError(f"the plugin raised {type(raised).__name__}")
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_settle, future, result, error)

        if not self._pool.submit(work):
            raise RuntimeError("too many calls wait for a thread")
        return await future

    def _on_started(self, error: BaseException | None) -> None:
        self._starting = False
        waiting, self._waiting = self._waiting, []
        if error is None:
            self._ready = True
            for call in waiting:
                self._dispatch(call)
            self._stop_if_idle()
            return
        self._next_start = monotonic() + RETRY
        self._log_error(_place(error), f"plugin {self.name} cannot start", error)
        for call in waiting:
            self._running -= 1
            self.metrics.count("error")
            call.end(None, Failure(Kind.PLUGIN_FAILED, f"{self.name}: cannot start"))
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._stopping or self._running or self._starting or self._stop_runs:
            return
        self._stop_runs = True
        if self._plugin.stop is None or not self._ready:
            self._on_stopped(None)
        else:
            self._run_hook(self._plugin.stop, self._on_stopped)

    def _on_stopped(self, error: BaseException | None) -> None:
        if error is not None:
            self._log_error(_place(error), f"plugin {self.name} cannot stop", error)
        self.stopped.set()
        self._pool.close()

    # ---- the log

    def _note_blocking(self, seconds: float) -> None:
        if seconds > BLOCKING:
            text = f"plugin {self.name} occupied the event loop for {seconds * 1000:.0f} ms; other requests waited"
            self._log_error("blocking", text, None)

    def _log_error(self, place: object, text: str, error: BaseException | None) -> None:
        """Log an error, unless the same was logged within :data:`QUIET`."""
        now = monotonic()
        logged, left_out = self._logged.get(place, (-QUIET, 0))
        if now - logged < QUIET:
            self._logged[place] = logged, left_out + 1
            return
        if len(self._logged) >= _MOST_PLACES:
            self._logged.clear()
        self._logged[place] = now, 0
        more = f" ({left_out} more since the last report)" if left_out else ""
        _log.error("%s%s", text, more, exc_info=error)


def _place(error: BaseException) -> object:
    """Return what tells errors apart: their type, and the line that raised them."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error), *((frames[-1].filename, frames[-1].lineno) if frames else ())


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
