"""Plugins over the life of a worker: settings, hooks, reloads."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from passerelle.errors import CannotStart
from passerelle.plugin_host import host
from tests.plugin_host import samples
from tests.support.gateways import Rig, Running
from tests.support.upstream import Connection, Upstream, answering, ok
from tests.support.wire import wait_until

HERE = "tests.plugin_host.samples"


def counted(key: str, **keys: Any) -> dict[str, Any]:
    return {"guard": f"{HERE}:Counted", "sets": "X-Calls", "settings": {"key": key}, **keys}


def start(rig: Rig, upstream: Upstream, plugin: dict[str, Any]) -> Running:
    return rig.forward(upstream, route={"plugins": "p"}, plugins={"p": plugin})


def reload(running: Running, upstream: Upstream, **plugins: Any) -> None:
    route = {"path": "/{rest*}", "service": "u", "plugins": list(plugins)}
    running.reload({"u": {"targets": [upstream.url]}}, [route], plugins=plugins)


def reload_without(running: Running, upstream: Upstream) -> None:
    running.reload({"u": {"targets": [upstream.url]}}, [{"path": "/{rest*}", "service": "u"}])


def test_hooks_run_at_start_and_at_the_end(rig: Rig, events: list[str]) -> None:
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, counted("a"))
    assert rig.connect(running).request("GET", "/").status == 200
    assert events == ["made a", "started a"]
    running.stop(1.0)
    assert events == ["made a", "started a", "stopped a"]


def test_a_stop_during_the_start_comes_after_it(rig: Rig, events: list[str]) -> None:
    running = start(rig, rig.upstream(answering(ok())), {"guard": f"{HERE}:StartsSlowly"})
    wait_until(lambda: events == ["start runs"], "the start runs")
    released = threading.Timer(0.0, lambda: (wait_until(lambda: stopping(running)), samples.GATE.set()))
    released.start()
    running.stop(0.0)
    released.join()
    assert events == ["start runs", "started", "stopped"]


def stopping(running: Running) -> bool:
    """Return whether the gateway stops its plugins."""
    return bool(running.gateway._guards.plugins.host.runners["p"]._stopping)


def test_a_reload_keeps_a_plugin_with_the_same_settings(rig: Rig, events: list[str]) -> None:
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, counted("a"))
    client = rig.connect(running)
    assert client.request("GET", "/").status == 200
    reload(running, upstream, p=counted("a"))
    assert client.request("GET", "/").status == 200
    assert [request.get("x-calls") for request in upstream.requests] == [b"1", b"2"]
    assert events == ["made a", "started a"]
    assert running.snapshot()["plugins"]["p"]["outcomes"] == {"allowed": 2}


def test_a_reload_with_other_settings_makes_another_instance(
    rig: Rig, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "STOP_POLL", 0.001)
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, counted("a"))
    client = rig.connect(running)
    assert client.request("GET", "/").status == 200
    reload(running, upstream, p=counted("b"))
    assert client.request("GET", "/").status == 200
    assert [request.get("x-calls") for request in upstream.requests] == [b"1", b"1"]
    wait_until(lambda: "stopped a" in events, "the old instance is stopped")
    assert {*events} == {"made a", "started a", "made b", "started b", "stopped a"}


@pytest.mark.parametrize("keys", [{}, {"body": "1MiB"}], ids=["heads", "bodies"])
def test_a_response_from_before_a_reload_has_its_filter_however_late_it_is(
    rig: Rig, events: list[str], monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    monkeypatch.setattr(host, "STOP_POLL", 0.001)
    release = threading.Event()

    def late(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)
        conn.send(ok(b"late"))

    upstream = rig.upstream(late)
    running = start(rig, upstream, {"response": f"{HERE}:TagsUntilStopped", **keys})
    waiting, other = rig.connect(running), rig.connect(running)
    waiting.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream.wait_requests(1)
    quick = rig.upstream(answering(ok(b"quick")))
    reload_without(running, quick)
    for _ in range(20):
        assert other.request("GET", "/").body == b"quick"
    assert events == []
    release.set()
    response = waiting.read_response("GET")
    assert (response.get("x-tag"), response.body) == (b"filtered", b"late!" if keys else b"late")
    wait_until(lambda: events == ["stopped"], "the plugin is stopped")


def test_a_stream_that_has_begun_keeps_no_plugin(rig: Rig, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_POLL", 0.001)
    release = threading.Event()

    def streaming(conn: Connection) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        conn.wait(release)
        conn.send(b"cd")

    upstream = rig.upstream(streaming)
    running = start(rig, upstream, {"response": f"{HERE}:TagsUntilStopped"})
    client = rig.connect(running)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"X-Tag: filtered" in client.until(b"\r\n\r\nab")
    reload_without(running, rig.upstream(answering(ok())))
    wait_until(lambda: events == ["stopped"], "the plugin is stopped")
    release.set()
    assert client.exactly(2) == b"cd"


def test_a_plugin_that_a_request_needs_for_too_long_is_stopped(
    rig: Rig, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "STOP_POLL", 0.001)
    monkeypatch.setattr(host, "STOP_LIMIT", 0.01)
    release = threading.Event()

    def late(conn: Connection) -> None:
        conn.read_request()
        conn.wait(release)

    upstream = rig.upstream(late)
    running = start(rig, upstream, {"response": f"{HERE}:TagsUntilStopped"})
    rig.connect(running).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream.wait_requests(1)
    reload_without(running, rig.upstream(answering(ok())))
    wait_until(lambda: events == ["stopped"], "the plugin is stopped")
    release.set()


def test_a_reload_turns_plugins_off_and_on(rig: Rig, events: list[str]) -> None:
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, {"guard": f"{HERE}:by_header"})
    client = rig.connect(running)
    assert client.request("GET", "/").status == 403
    running.reload({"u": {"targets": [upstream.url]}}, [{"path": "/{rest*}", "service": "u"}])
    assert client.request("GET", "/").status == 200
    reload(running, upstream, p={"guard": f"{HERE}:by_header"})
    assert client.request("GET", "/").status == 403


def test_a_reload_with_a_plugin_that_cannot_be_loaded_changes_nothing(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, counted("a"))
    client = rig.connect(running)
    with pytest.raises(CannotStart, match=r"plugins\.p\.settings\.limit: input should be a valid integer"):
        reload(running, upstream, p=counted("a", settings={"key": "a", "limit": "many"}))
    with pytest.raises(CannotStart, match=r"plugins\.q\.guard: there is no module 'tests.plugin_host.none'"):
        reload(running, upstream, q={"guard": "tests.plugin_host.none:f"})
    assert client.request("GET", "/").status == 200
    assert upstream.requests[0].get("x-calls") == b"1"


def test_a_plugin_that_cannot_start_is_closed(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    running = start(rig, upstream, {"guard": f"{HERE}:CannotStart"})
    client = rig.connect(running)
    for _ in range(2):
        response = client.request("GET", "/")
        assert response.status == 500
        assert b"database" not in response.body
    running.stop(0.5)
    assert ["plugin p cannot start" in record.getMessage() for record in rig.log.records] == [True]
    rig.log.records = []


def test_settings_without_a_model_are_passed_as_they_are(rig: Rig) -> None:
    upstream = rig.upstream(answering(ok()))
    plugin = {"guard": f"{HERE}:Loose", "sets": "X-Calls", "settings": {"n": 7}}
    assert rig.connect(start(rig, upstream, plugin)).request("GET", "/").status == 200
    assert upstream.requests[0].get("x-calls") == b"7"
