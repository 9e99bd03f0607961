"""The log of events: bounded, ordered, and with the events of log records."""

from __future__ import annotations

import logging

import pytest

from passerelle.observability.events import CERTIFICATE, KINDS, MOST_TEXT, STORE, Event, EventLog, LogEvents


def test_events_are_numbered_and_can_be_read_from_any_number_on() -> None:
    log = EventLog(lambda: 1000.5)
    first = log.record("start", "user-1 is up", service="user", instance="user-1", pid=7)
    second = log.record("scale", "user: scaled from 1 to 2 instances", service="user")
    assert first == Event(1_000_501, 1000.5, "start", "user", "user-1", None, "user-1 is up", {"pid": 7})
    assert log.since() == [first, second]
    assert log.since(first.seq) == [second]
    assert log.since(second.seq) == [] and log.last == second.seq
    assert log.since(kinds={"start"}) == [first]
    assert {kind: count for kind, count in log.counts.items() if count} == {"start": 1, "scale": 1}


def test_numbers_increase_over_a_restart() -> None:
    before = EventLog(lambda: 1000.0)
    for _ in range(900):
        before.record("start", "x")
    assert EventLog(lambda: 1001.0).record("start", "x").seq > before.last


def test_only_the_last_events_are_kept_and_all_are_counted() -> None:
    log = EventLog(size=10)
    for number in range(25):
        log.record("end", str(number))
    assert [event.text for event in log.since()] == [str(number) for number in range(15, 25)]
    assert log.counts["end"] == 25


def test_texts_and_details_are_bounded() -> None:
    event = EventLog().record(
        "audit",
        "x" * 10_000,
        arguments={f"key{n}": "v" * 10_000 for n in range(100)},
        problems=["p" * 10_000] * 100,
        other=b"\xff" * 10_000,
        **{f"k{n}": n for n in range(100)},
    )
    assert len(event.text) == MOST_TEXT and event.text.endswith("…")
    assert len(event.detail) == 20
    assert len(event.detail["arguments"]) == len(event.detail["problems"]) == 20
    assert all(len(value) <= MOST_TEXT for value in event.detail["arguments"].values())
    assert len(event.detail["other"]) == MOST_TEXT


def test_a_text_is_one_line_that_a_terminal_can_print() -> None:
    event = EventLog().record("audit", "a\nb\x1b[31mc\x9b\u2028é✓", arguments={"x\n": "\r"})
    assert event.text == "a\ufffdb\ufffd[31mc\ufffd\ufffdé✓"
    assert event.detail == {"arguments": {"x\ufffd": "\ufffd"}}


def test_a_kind_must_be_known() -> None:
    with pytest.raises(KeyError):
        EventLog().record("unknown", "x")


def test_listeners_receive_events_until_they_end() -> None:
    log, seen = EventLog(), []
    end = log.listen(seen.append)
    first = log.record("start", "a")
    end()
    log.record("start", "b")
    assert seen == [first]


def test_log_records_with_a_kind_are_events(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, str]] = []
    logger = logging.getLogger("test-of-events")
    logger.propagate = False
    handler = LogEvents(lambda kind, text: seen.append((kind, text)))
    logger.addHandler(handler)
    try:
        logger.warning("tls: certificates %s", "reloaded", extra=CERTIFICATE)
        logger.warning("redis: gone", extra=STORE)
        logger.warning("handshake failed")
        logger.info("nothing", extra=STORE)
        logger.warning("odd", extra={"event_kind": "unknown"})
    finally:
        logger.removeHandler(handler)
    assert seen == [("certificate", "tls: certificates reloaded"), ("store", "redis: gone")]
    assert capsys.readouterr().err == "tls: certificates reloaded\nredis: gone\nhandshake failed\nodd\n"


def test_every_kind_has_a_meaning() -> None:
    assert all(meaning and not meaning.endswith(".") for meaning in KINDS.values())
