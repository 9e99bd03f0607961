"""The threads of the WSGI server: ``size`` for requests, and ``streams`` more for responses that last.

Event streams and WebSockets have threads of their own from their beginning; beyond ``streams``, they are refused. Any
other response that has been streamed for ``STREAM_AFTER`` seconds, such as a long download, no longer counts for
``size`` either, as long as there is room: another thread takes its place. So streams do not delay other requests. A
call of an application cannot be interrupted; docs/decisions/018-threads-of-streams.md and
docs/decisions/032-application-processes.md explain how calls that never end are handled.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from passerelle.appserver import wsgi
from passerelle.appserver.thread_stats import ThreadStats

log = logging.getLogger("passerelle.appserver")

THREADS = 4
STREAMS = 3  # for each thread, unless the configuration states their number
STREAM_AFTER = 1.0  # seconds
STUCK_AFTER = 60.0  # seconds for which each thread has worked for a client that is gone
_REPORT_AGAIN = 30.0  # seconds between reports of waiting requests


class Caller(wsgi.ResponseSink, Protocol):
    """The connection of a request. All times are those of ``time.monotonic``; 0 is never."""

    @property
    def streaming_since(self) -> float:
        """When the first piece of the current response was sent, if more pieces follow."""

    @property
    def gone_since(self) -> float:
        """When the client closed the connection, or its side of it: the gateway never closes only its side."""

    def abort(self) -> None:
        """Close the connection at once."""


_Job = tuple[wsgi.Environ, Caller, bool, float]
"""A request: its environ, its connection, whether that may carry another one, and when it was queued."""


class _Worker:
    """A thread, and the connection of the request that it handles."""

    __slots__ = ("began", "caller", "is_apart", "place", "thread")

    def __init__(self, place: int) -> None:
        self.thread: threading.Thread
        self.place = place  # of its numbers in the statistics
        self.caller: Caller | None = None
        self.began = 0.0  # the current call
        self.is_apart = False  # it streams, and does not count for the size of the pool


class ThreadPool:
    """Calls ``application`` in threads. The event loop calls all methods but :meth:`admit_stream`.

    ``clock`` is a monotonic clock, in seconds. ``stats`` has places for ``size + streams`` threads. ``hung_after`` are
    the seconds after which a call is hung; None for never.
    """

    def __init__(
        self,
        application: wsgi.Application,
        size: int,
        clock: Callable[[], float] = time.monotonic,
        stats: ThreadStats | None = None,
        streams: int | None = None,
        hung_after: float | None = None,
    ) -> None:
        self._application = application
        self._size = size
        self._streams = size * STREAMS if streams is None else streams
        self._most = size + self._streams
        self._hung_after = hung_after
        self._clock = clock
        self._stats = stats or ThreadStats(self._most)
        self._stats.set_threads(0)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._workers: list[_Worker] = []
        self._were_waiting = False
        self._reported: float | None = None
        self._refusal_reported: float | None = None

    @property
    def threads(self) -> int:
        """The number of threads."""
        return len(self._workers)

    def start(self) -> None:
        """Start the threads. :raises RuntimeError: if the system allows no more threads."""
        for _ in range(self._size):
            self._start_one()

    def _start_one(self, job: _Job | None = None) -> None:
        """Start a thread; with a ``job``, one for a stream, which begins with it."""
        with self._lock:
            taken = {worker.place for worker in self._workers}
            worker = _Worker(next(place for place in range(self._most) if place not in taken))
            worker.is_apart = job is not None
            worker.caller = None if job is None else job[1]
            worker.thread = threading.Thread(target=self._work, args=[worker, job], name="wsgi", daemon=True)
            worker.thread.start()
            self._workers.append(worker)
            self._stats.set_threads(len(self._workers))

    def call(self, environ: wsgi.Environ, caller: Caller, keep: bool) -> None:
        """Queue a request."""
        self._jobs.put((environ, caller, keep, time.monotonic()))
        self._stats.set_queued(self._jobs.qsize())

    def call_stream(self, environ: wsgi.Environ, caller: Caller, keep: bool) -> bool:
        """Call the application in a thread for a stream. Returns False, and reports it, if there is none."""
        with self._lock:
            if self._has_room():
                try:
                    self._start_one((environ, caller, keep, time.monotonic()))
                except RuntimeError as error:
                    log.warning("no thread for a stream: %s", error)
                    return False
                return True
        self._report_refusal()
        return False

    def admit_stream(self, caller: Caller) -> bool:
        """Set the thread of ``caller`` apart, because its response is a stream. Called in that thread.

        Returns False, and reports it, if there are as many streams as there may be.
        """
        with self._lock:
            worker = next((each for each in self._workers if each.caller is caller), None)
            if worker is None or worker.is_apart:
                return True
            if self._has_room():
                try:
                    self._start_one()
                except RuntimeError as error:
                    log.warning("no thread in place of one that streams: %s", error)
                    return False
                worker.is_apart = True
                return True
        self._report_refusal()
        return False

    def _has_room(self) -> bool:
        return sum(worker.is_apart for worker in self._workers) < self._streams and len(self._workers) < self._most

    def _report_refusal(self) -> None:
        now = self._clock()
        if self._refusal_reported is None or now - self._refusal_reported >= _REPORT_AGAIN:
            self._refusal_reported = now
            log.warning("a stream was refused with 503: all %d threads for streams are busy", self._streams)

    def _work(self, worker: _Worker, job: _Job | None = None) -> None:
        jobs, application, stats, place = self._jobs, self._application, self._stats, worker.place
        job = job or jobs.get()
        while job is not None:
            environ, caller, keep, queued_at = job
            worker.began = time.monotonic()
            worker.caller = caller
            stats.begin(place, queued_at, worker.began)
            stats.set_queued(jobs.qsize())
            wsgi.run(application, environ, caller, keep)
            stats.end(place, time.monotonic())
            worker.caller = None
            # Free the objects of this job before the wait for the next one.
            del job, environ, caller
            if worker.is_apart and not self._may_return(worker):
                return
            job = jobs.get()

    def _may_return(self, worker: _Worker) -> bool:
        """Whether ``worker``, which has streamed, is needed again; otherwise it must end."""
        with self._lock:
            if sum(not other.is_apart for other in self._workers) < self._size:
                worker.is_apart = False
                return True
            self._workers.remove(worker)
            self._stats.set_threads(len(self._workers))
            return False

    def check(self) -> bool:
        """Replace threads that stream, drop requests of clients that are gone, and report waiting requests.

        Call it once a second. Returns whether the pool is stuck: requests wait, and each thread has worked for a
        client that is gone for :data:`STUCK_AFTER` seconds.
        """
        now = self._clock()
        self._replace_streaming(now)
        waiting = 0
        if self._jobs.qsize():
            self._drop_abandoned()
            waiting = self._jobs.qsize()
        if not waiting:
            self._were_waiting = False
            return False
        with self._lock:
            callers = [worker.caller for worker in self._workers]
            streams = sum(worker.is_apart for worker in self._workers)
        busy = [caller for caller in callers if caller is not None]
        if len(busy) < len(callers):
            return False
        if all(caller.gone_since and now - caller.gone_since > STUCK_AFTER for caller in busy):
            return True
        # Requests that wait for a moment are no reason for a report.
        if self._were_waiting and (self._reported is None or now - self._reported >= _REPORT_AGAIN):
            self._reported = now
            log.warning("all %d threads are busy (%d with streams), requests wait: %d", len(busy), streams, waiting)
        self._were_waiting = True
        return False

    def _replace_streaming(self, now: float) -> None:
        with self._lock:
            for worker in tuple(self._workers):
                caller = worker.caller
                since = caller.streaming_since if caller is not None and not worker.is_apart else 0.0
                if not since or now - since < STREAM_AFTER or not self._has_room():
                    continue
                try:
                    self._start_one()
                except RuntimeError as error:
                    log.warning("no thread in place of one that streams: %s", error)
                    return
                worker.is_apart = True

    def hung(self) -> list[Caller]:
        """Return the callers of all threads for requests if each of them is in a hung call; otherwise an empty list.

        A call is hung if it has sent nothing for longer than ``hung_after``. A response in transmission does not count.
        """
        if self._hung_after is None:
            return []
        now = self._clock()
        with self._lock:
            callers = []
            for worker in self._workers:
                caller = worker.caller
                if worker.is_apart:
                    continue
                if caller is None or caller.streaming_since or now - worker.began <= self._hung_after:
                    return []
                callers.append(caller)
        return callers

    def take_waiting(self) -> list[tuple[wsgi.Environ, Caller]]:
        """Remove the requests from the queue, and return them."""
        taken: list[tuple[wsgi.Environ, Caller]] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return taken
            if job is not None:
                taken.append(job[:2])

    def _drop_abandoned(self) -> None:
        """Remove the requests from the queue whose clients are gone: nothing else bounds their number."""
        for _ in range(self._jobs.qsize()):
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None and job[1].gone_since:
                job[0]["wsgi.input"].close()
                job[1].abort()
            else:
                self._jobs.put(job)

    def stop(self) -> None:
        """Let each thread end after the request that it handles."""
        for _ in range(len(self._workers)):
            self._jobs.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the end of the threads, for at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        for worker in tuple(self._workers):
            worker.thread.join(max(0.0, deadline - time.monotonic()))
