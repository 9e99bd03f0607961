"""Reload, scale and restart of a running ``passerelle up``, with real processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, invoke
from tests.support.upstream import Upstream, answering, ok

HEAD = "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\n"
# Not http.server, which imports four times as long.
SERVE = """
import _thread, os, socket, sys

def serve(connection):
    while head := connection.recv(65536):
        path = head.split(b" ")[1].decode()
        body = (os.environ["PASSERELLE_INSTANCE"] + os.environ.get("SAYS", "")).encode()
        status = 200
        connection.sendall(b"HTTP/1.1 %d \\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (status, len(body), body))
    connection.close()

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    _thread.start_new_thread(serve, (listener.accept()[0],))
"""


def config(instances: int = 2, env: str = "{}", **more: str) -> str:
    extra = "".join(f"  {name}: {text}\n" for name, text in more.items())
    return (
        f"{HEAD}services:\n  s:\n    run: [python, -S, serve.py, '{{port}}']\n    instances: {instances}\n"
        f"    env: {env}\n    health: {{path: /}}\n    balance: round_robin\n{extra}"
        "routes: [{path: '/{rest*}', service: s}]\n"
    )


@contextlib.contextmanager
def up(folder: Path, text: str) -> Iterator[Up]:
    """Run ``passerelle up`` with a complete file, which the test then changes."""
    (folder / "serve.py").write_text(SERVE)
    (folder / "gateway.yaml").write_text(text)
    with command(folder, "up") as running:
        yield running


def ask(running: Up, method: str, path: str, **fields: str) -> tuple[int, dict[str, object] | str]:
    connection = http.client.HTTPConnection("127.0.0.1", running.admin, timeout=60)
    try:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in fields.items()})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    return response.status, json.loads(text) if text.startswith("{") else text


def change(running: Up, path: str) -> dict[str, object]:
    status, answer = ask(running, "POST", path, Passerelle_Admin="1")
    assert isinstance(answer, dict)
    assert status == (409 if "problems" in answer else 200)
    return answer


def pids(running: Up) -> set[int]:
    return {instance["pid"] for instance in running.instances("s")}


@pytest.mark.slow
def test_scale_restart_and_reload(tmp_path: Path) -> None:
    with up(tmp_path, config()) as running:
        running.listening()
        assert change(running, "/scale?service=s&instances=4") == {
            "message": "s: scaled from 2 to 4 instances",
            "before": 2,
            "instances": 4,
        }
        assert [i["name"] for i in running.instances("s")] == ["s-1", "s-2", "s-3", "s-4"]
        assert {running.get("/")[1] for _ in range(60)} == {b"s-1", b"s-2", b"s-3", b"s-4"}
        change(running, "/scale?service=s&instances=1")
        first = pids(running)
        assert len(first) == 1 and len(running.named("serve.py")) == 1
        # The new process is up before the old one stops.
        assert change(running, "/restart?service=s")["message"] == "s: replaced 1 instance"
        assert len(pids(running)) == 1 and not pids(running) & first
        # The number in the file is unchanged, so the number set by scale stays.
        before = pids(running)
        assert change(running, "/reload")["message"] == "gateway.yaml reloaded"
        assert pids(running) == before
        (tmp_path / "gateway.yaml").write_text(config(3, "{SAYS: '!'}"))
        change(running, "/reload")
        assert {running.get("/")[1][-1:] for _ in range(20)} == {b"!"}
        assert len(pids(running)) == 3
        assert running.stop() == 0


@pytest.mark.slow
def test_an_unusable_file_changes_nothing_and_has_its_reason(tmp_path: Path) -> None:
    with up(tmp_path, config(1)) as running:
        running.listening()
        before = pids(running)
        (tmp_path / "gateway.yaml").write_text(config(0))
        said = "gateway.yaml:7:16: services.s.instances: found 0; allowed is a whole number from 1 to 1000"
        assert invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{running.admin}") == (1, said + "\n")
        running.says(f"passerelle \\| {said.replace('.', '[.]')}\npasserelle \\| nothing was changed")
        (tmp_path / "gateway.yaml").write_text(config(1)[:40])  # as an editor may leave the file for a moment
        assert "problems" in change(running, "/reload")
        (tmp_path / "gateway.yaml").unlink()
        assert change(running, "/reload") == {"problems": ["cannot read gateway.yaml: No such file or directory"]}
        assert running.get("/") == (200, b"s-1") and pids(running) == before
        # Keys that need a restart are reported; the others are applied.
        (tmp_path / "gateway.yaml").write_text(config(1).replace("admin:", "workers: 2\nadmin:"))
        message = "gateway.yaml reloaded; restart to apply the new values of: workers"
        assert change(running, "/reload") == {"message": message, "after_restart": ["workers"]}
        assert len(running.status()["workers"]) == 1
        assert running.stop() == 0


@pytest.mark.slow
def test_a_hangup_without_a_terminal_reloads_the_file(tmp_path: Path) -> None:
    one, two = Upstream(answering(ok(b"1"))), Upstream(answering(ok(b"2")))
    text = HEAD + "services: {{u: {{targets: ['{}']}}}}\nroutes: [{{path: /, service: u}}]\n"
    try:
        with up(tmp_path, text.format(one.url)) as running:
            running.listening()
            kept = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            kept.request("GET", "/")
            assert kept.getresponse().read() == b"1"
            (tmp_path / "gateway.yaml").write_text(text.format(two.url))
            os.kill(running.popen.pid, signal.SIGHUP)
            running.says("gateway.yaml reloaded")
            kept.request("GET", "/")
            assert kept.getresponse().read() == b"2"
            kept.close()
            until_now(lambda: [i["name"] for i in running.instances("u")] == ["u-2"])
            assert running.stop() == 0
    finally:
        one.close()
        two.close()


@pytest.mark.slow
def test_a_service_that_does_not_come_up_is_not_replaced(tmp_path: Path) -> None:
    with up(tmp_path, config(2)) as running:
        running.listening()
        before = pids(running)
        (tmp_path / "serve.py").write_text("import sys; sys.exit('no database')")
        answer = change(running, "/restart?service=s")
        problem = (
            "s: replaced 0 of 2 instances; the others keep running, because the new instance s-3 did not come up: "
        )
        problem += "exited with code 1"
        assert answer == {"problems": [problem]}
        assert pids(running) == before and running.get("/")[0] == 200
        assert running.stop() == 0


LIFESPAN = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.path.exists("broken"):
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})
"""


@pytest.mark.long
@pytest.mark.slow
def test_an_application_whose_lifespan_fails_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "apps.py").write_text(LIFESPAN)
    with up(tmp_path, "services: {s: {app: 'apps:app'}}\nroutes: [{path: /, service: s}]\n") as running:
        running.listening()
        before = pids(running)
        (tmp_path / "broken").touch()
        answer = change(running, "/restart?service=s")
        assert list(answer) == ["problems"]
        assert "the new instance s-2 did not come up: exited with code 3" in str(answer["problems"])
        assert pids(running) == before and running.get("/") == (200, b"served")
        assert running.stop() == 0


@pytest.mark.slow
def test_which_clients_may_change_what(tmp_path: Path) -> None:
    with up(tmp_path, config(1, t="{targets: ['http://127.0.0.1:1']}")) as running:
        running.listening()
        assert ask(running, "GET", "/reload")[0] == 405
        assert ask(running, "POST", "/reload")[0] == 403
        assert ask(running, "POST", "/reload", Passerelle_Admin="1", Origin="http://localhost")[0] == 403
        assert ask(running, "POST", "/reload", Passerelle_Admin="1", Host="evil.example")[0] == 403
        assert ask(running, "POST", "/status", Passerelle_Admin="1")[0] == 405
        refused = [
            ("/restart?service=x", "there is no service 'x'; the services are: s, t"),
            (
                "/restart?service=t",
                "t has targets: passerelle does not start its instances; see passerelle instances --help",
            ),
            ("/scale?service=s&instances=0", "found '0' instances; allowed is a number from 1 to 1000"),
            ("/scale?service=s&instances=1e3", "found '1e3' instances; allowed is a number from 1 to 1000"),
        ]
        for path, problem in refused:
            assert change(running, path) == {"problems": [problem]}
        assert running.stop() == 0


@pytest.mark.slow
def test_a_gateway_alone_reloads_its_file(tmp_path: Path) -> None:
    one, two = Upstream(answering(ok(b"1"))), Upstream(answering(ok(b"2")))
    text = HEAD + "services: {{u: {{targets: ['{}']}}}}\nroutes: [{{path: /, service: u}}]\n"
    file = tmp_path / "gateway.yaml"
    file.write_text(text.format(one.url))
    try:
        with command(tmp_path, "gateway") as running:
            running.listening()
            assert running.get("/") == (200, b"1")
            file.write_text(text.format(two.url))
            assert change(running, "/reload") == {"message": "gateway.yaml reloaded", "after_restart": []}
            assert running.get("/") == (200, b"2")
            file.write_text("services: {}")
            assert "problems" in change(running, "/reload")
            os.kill(running.popen.pid, signal.SIGHUP)
            running.says("nothing was changed")
            assert running.get("/") == (200, b"2")
            assert change(running, "/scale?service=u&instances=2") == {
                "problems": ["`passerelle gateway` does not start instances"]
            }
            assert running.stop() == 0
    finally:
        one.close()
        two.close()
