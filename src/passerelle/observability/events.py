"""Events: what happened to a running system, as one stream with a bounded memory.

An event is recorded once, where it is known: the supervisor records starts, ends, health, reloads, scalings and audited
actions; workers report their own (circuit breakers, certificates, stores) over the control channel. Requests are never
events, so clients cannot fill the stream, and every text and detail has a bounded length.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

SIZE = 1000  # events that are kept
MOST_TEXT = 500  # characters of a text
MOST_ITEMS = 20  # entries of a detail, and items of a list in it

KINDS: dict[str, str] = {
    "start": "an instance or a worker is up for the first time",
    "restart": "an instance or a worker is up again after it had ended",
    "end": "a process has ended or could not be started (the text has the reason), or was stopped by a change",
    "up": "an instance passes its probes (again)",
    "down": "an instance fails its probes",
    "ejection": "an instance was ejected because requests to it failed",
    "return": "the ejection of an instance is over",
    "drain": "an instance receives no new requests, or again after `resume`",
    "reload": "a configuration was applied, or refused: then `detail.problems` has the reasons",
    "scale": "the number of instances of a service was changed, or stays although the load calls for another one",
    "split": "the weights of a split were changed; `detail` has those before and now, by whom, and why",
    "rollout": "a rollout has started, taken a step, ended or was rolled back; `detail` has the reason and evidence",
    "discovery": "targets were found or have gone",
    "breaker": "the circuit breaker of a service has opened, closed or is half-open in a worker",
    "certificate": "a certificate was loaded again, cannot be used, or expires soon",
    "certificate_renewed": "a certificate was ordered for a name, which `tls.auto` has",
    "certificate_failed": "no certificate could be ordered for a name; the text has the reason and the next order",
    "store": "a store of keys, sessions or responses is unavailable, or available again",
    "audit": "a change was requested on the admin port; `detail` has the client, the arguments and the outcome",
    "backup_done": "`passerelle backup` has made a backup",
    "backup_failed": "`passerelle backup` could not make a backup; the text has the reason",
    "alert": "the condition of an alert holds, or no longer holds",
}
"""All kinds of events, with their meaning in Markdown."""

_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], "\N{REPLACEMENT CHARACTER}")

# For the `extra` of a log record that is an event as well (see :class:`LogEvents`).
CERTIFICATE = {"event_kind": "certificate"}
STORE = {"event_kind": "store"}


class Event(NamedTuple):
    """An event. ``seq`` increases, ``time`` is in seconds since 1970; None for what does not apply."""

    seq: int
    time: float
    kind: str
    service: str | None
    instance: str | None
    worker: str | None
    text: str
    detail: dict[str, Any]


class EventLog:
    """The last events, and the number of all events by kind.

    Sequence numbers begin with the time of the start in milliseconds, so that they also increase over restarts: a
    client that asks for the events since the last one it has seen needs no other state. ``clock`` returns the time in
    seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time, size: int = SIZE) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=size)
        self._listeners: list[Callable[[Event], None]] = []
        self._seq = int(clock() * 1000)
        self.counts = dict.fromkeys(KINDS, 0)

    @property
    def last(self) -> int:
        """The sequence number of the last event."""
        return self._seq

    def record(
        self,
        kind: str,
        text: str,
        *,
        service: str | None = None,
        instance: str | None = None,
        worker: str | None = None,
        **detail: Any,
    ) -> Event:
        """Record an event and pass it to all listeners. :raises KeyError: for a kind that is not in :data:`KINDS`."""
        self.counts[kind] += 1
        self._seq += 1
        event = Event(self._seq, self._clock(), kind, service, instance, worker, _cut(text), _bounded(detail))
        self._events.append(event)
        for listener in tuple(self._listeners):
            listener(event)
        return event

    def since(self, seq: int = 0, kinds: Collection[str] | None = None) -> list[Event]:
        """Return the kept events after ``seq``, in order, of all ``kinds`` or of the given ones."""
        later = takewhile(lambda event: event.seq > seq, reversed(self._events))
        return [event for event in later if kinds is None or event.kind in kinds][::-1]

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with every event from now on. Returns a function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


class LogEvents(logging.Handler):
    """Passes log records whose ``extra`` names a kind of event to ``report(kind, text)``; prints all of them.

    A process with this handler prints warnings to standard error as a process without a handler does.
    """

    def __init__(self, report: Callable[[str, str], object]) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, and report its event."""
        if logging.lastResort is not None:
            logging.lastResort.handle(record)
        kind = getattr(record, "event_kind", None)
        if kind in KINDS:
            with contextlib.suppress(RuntimeError):  # a thread logs after the event loop was closed
                self._report(kind, _cut(record.getMessage()))


def _cut(text: str) -> str:
    # One line without control characters: a text can have words of a request, and is printed on terminals.
    text = text[: MOST_TEXT + 1].translate(_CONTROLS)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def _bounded(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {_cut(str(key)): _value(value) for key, value in list(detail.items())[:MOST_ITEMS]}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_cut(str(key)): _cut(str(item)) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list | tuple):
        return [_cut(str(item)) for item in value[:MOST_ITEMS]]
    return value if value is None or isinstance(value, bool | int | float) else _cut(str(value))
