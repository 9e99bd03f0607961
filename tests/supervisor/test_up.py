"""``passerelle up`` from its start report to its end, with real processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.system import ports
from tests.supervisor.helpers import FILE_SERVER, until_now
from tests.supervisor.up import CLI, Up, command, invoke, up

FILES = f"""
services:
  files:
    run: [python, -S, "{FILE_SERVER}", "{{port}}"]
    instances: 3
    health: {{path: /}}
routes:
  - {{path: "/{{rest*}}", service: files}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Three instances behind a gateway, for tests that do not change them."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "hello.txt").write_text("hello")
    with up(folder, FILES) as running:
        running.listening()
        yield running
        assert running.stop() == 0


def behind(files: Up) -> str:
    """Return a configuration with the instances of ``files`` as targets, for tests in which the workers matter."""
    urls = ", ".join(f"'http://{instance['address']}'" for instance in files.instances("files"))
    return f"services: {{files: {{targets: [{urls}]}}}}\nroutes: [{{path: '/{{rest*}}', service: files}}]\n"


def test_start_report(files: Up) -> None:
    for n in (1, 2, 3):
        assert re.search(rf"files-{n} +up +127\.0\.0\.1:\d+ +pid \d+ +\d+\.\d+ s\n", files.text)
    assert re.search(rf"gateway +up +127\.0\.0\.1:{files.port} +pid \d+\n", files.text)
    assert "\x1b" not in files.text, "no colours where there is no terminal"


def test_every_instance_serves_requests(files: Up) -> None:
    for _ in range(40):
        assert files.get("/hello.txt") == (200, b"hello")
    for n in (1, 2, 3):
        assert f'"instance":"files-{n}"' in files.says(rf'"target":"/hello.txt".*"instance":"files-{n}"')[0]
    assert files.get("/readyz", files.admin) == (200, b"ready\n")
    status = files.status()
    assert status["state"] == "running"
    assert status["services"]["files"]["up"] == 3
    assert status["services"]["files"]["source"] == "run"


def test_an_instance_that_is_killed_leaves_at_once_and_is_replaced_and_an_orderly_end(tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("hello")
    with up(tmp_path, FILES) as running:
        running.listening()
        victim = running.instances("files")[1]
        os.kill(victim["pid"], signal.SIGKILL)
        running.says(r"files-2 was ended by SIGKILL")
        for _ in range(20):
            assert running.get("/hello.txt") == (200, b"hello")
        running.says(r"files-2 is up \(pid \d+, start 2\)")
        replaced = running.instances("files")[1]
        assert replaced["state"] == "up"
        assert replaced["restarts"] == 1
        assert replaced["pid"] != victim["pid"]
        assert replaced["address"] != victim["address"], "a new port, because another process may hold the old one"
        assert running.stop(signal.SIGINT) == 0
        assert "files-1    | Serving HTTP on 127.0.0.1" in running.text, "output under its name, not held back"
        assert running.text.endswith("passerelle | stopped\n")


def test_a_worker_that_is_killed_is_replaced_and_connections_wait_meanwhile(tmp_path: Path, files: Up) -> None:
    with up(tmp_path, behind(files)) as running:
        running.listening()
        before = running.get("/hello.txt")
        os.kill(running.status()["workers"][0]["pid"], signal.SIGKILL)
        # The kernel queues the connection for the next worker, which has the instances before it listens.
        assert running.get("/hello.txt") == before == (200, b"hello")
        worker = running.status()["workers"][0]
        assert worker["restarts"] == 1
        until_now(lambda: b"passerelle_requests_total" in running.get("/metrics", running.admin)[1])
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_is_replaced_although_a_folder_of_a_service_is_gone(tmp_path: Path) -> None:
    """A start or a reload reports the missing folder; a running gateway continues."""
    folder = tmp_path / "below"
    folder.mkdir()
    served = FILES.replace("instances: 3", "cwd: below")
    with up(tmp_path, served) as running:
        running.listening()
        folder.rename(tmp_path / "moved")
        os.kill(running.status()["workers"][0]["pid"], signal.SIGKILL)
        until_now(lambda: running.status()["workers"][0]["restarts"] == 1, 30)
        until_now(lambda: running.get("/")[0] == 200, 30)
        os.kill(running.popen.pid, signal.SIGHUP)
        running.says(r"services\.files\.cwd: cannot start in below: no such folder", 30)
        assert running.get("/")[0] == 200
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_counters_do_not_go_down_when_a_worker_dies(tmp_path: Path, files: Up) -> None:
    def total() -> float:
        text = running.get("/metrics", running.admin)[1].decode()
        return sum(float(v) for v in re.findall(r'^passerelle_requests_total\{.*code="200".*\} (\S+)$', text, re.M))

    with up(tmp_path, behind(files)) as running:
        running.listening()
        for _ in range(5):
            running.get("/hello.txt")
        assert total() == 5
        os.kill(running.status()["workers"][0]["pid"], signal.SIGKILL)
        running.get("/hello.txt")
        assert total() == 6
        assert running.stop() == 0


@pytest.mark.long
def test_two_workers_share_the_port_and_their_counters_are_summed(tmp_path: Path, files: Up) -> None:
    with up(tmp_path, behind(files), "--workers", "2") as running:
        running.listening()
        for _ in range(40):
            assert running.get("/hello.txt") == (200, b"hello")
        assert [w["name"] for w in running.status()["workers"]] == ["gateway-1", "gateway-2"]
        metrics = running.get("/metrics", running.admin)[1].decode()
        assert re.search(r'passerelle_requests_total\{.*route="/\{rest\*\}".*\} 40\.0', metrics)
        assert running.stop() == 0


CACHED = """
services:
  counter: {app: counter:app}
routes:
  - {path: "/{rest*}", service: counter, cache: {ttl: 1h}}
"""
COUNTER = """
state = {"number": 0}


def app(environ, start_response):
    state["number"] += environ["REQUEST_METHOD"] == "PUT"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % state["number"]]
"""


def test_what_a_request_through_one_worker_changes_all_workers_evict(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    with up(tmp_path, CACHED, "--workers", "2") as running:
        running.listening()
        workers = re.compile(r"passerelle_cache_entries (\d)")

        # Both workers have stored it: each new connection goes to one of them.
        def held() -> bool:
            assert running.get("/x") == (200, b"0")
            match = workers.search(running.get("/metrics", running.admin)[1].decode())
            return match is not None and match[1] == "2"

        until_now(held, 30.0)
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        connection.request("PUT", "/x", body=b"")
        assert connection.getresponse().read() == b"1"
        connection.close()
        until_now(lambda: {running.get("/x") for _ in range(20)} == {(200, b"1")}, 30.0)
        assert running.stop() == 0


FAILING = f"""
services:
  good: {{run: [python, -S, "{FILE_SERVER}", "{{port}}"]}}
  bad: {{run: [sh, -c, "echo reading {{port}}; echo no database >&2; exit 3"]}}
  missing: {{run: [no-such-command, "{{port}}"]}}
  shown:
    run: [sh, -c, "echo $PORT={{port}} $HOST $PASSERELLE_SERVICE $PASSERELLE_INSTANCE $WHERE $(pwd); exit 1"]
    env: {{WHERE: "here"}}
    cwd: below
routes:
  - {{path: /good/, service: good, rewrite: /}}
  - {{path: /bad, service: bad}}
  - {{path: /missing, service: missing}}
  - {{path: /shown, service: shown}}
"""


@pytest.fixture(scope="module")
def failing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def failing(failing_folder: Path) -> Iterator[Up]:
    """Services that do not start, and one that does."""
    (failing_folder / "below").mkdir()
    with up(failing_folder, FAILING) as running:
        running.listening()
        yield running
        assert running.stop() == 0


def test_a_service_that_never_starts_is_reported_and_the_rest_goes_on(failing: Up) -> None:
    text = failing.text
    assert "passerelle | bad-1 exited with code 3 after 0.0" in text
    last = text[text.index("the last lines of bad-1:") :].splitlines()
    assert last[1].startswith("passerelle |     reading ")
    assert last[2] == "passerelle |     no database"
    assert text.count("the last lines of bad-1") == 1
    assert "passerelle | missing-1 cannot start: no such command: no-such-command after" in text
    assert "bad: no instance is up; requests to it get 503 until one is" in text
    assert failing.get("/good/")[0] == 200
    assert failing.get("/bad")[0] == 503
    assert failing.get("/missing")[0] == 503
    assert failing.get("/readyz", failing.admin)[0] == 200
    until_now(lambda: failing.instances("bad")[0]["restarts"] >= 2)
    assert failing.instances("bad")[0]["last_end"] == "exited with code 3"


@pytest.mark.long
def test_a_service_that_recovers_joins_by_itself(tmp_path: Path) -> None:
    config = """
services:
  late: {run: [sh, -c, "test -e ready || exit 1; exec python -m http.server --bind 127.0.0.1 {port}"]}
routes:
  - {path: /, service: late}
"""
    with up(tmp_path, config) as running:
        running.listening()
        assert running.get("/")[0] == 503
        (tmp_path / "ready").touch()
        running.says(r"late-1 is up \(pid \d+, start \d+\)", limit=15)
        until_now(lambda: running.get("/")[0] == 200)
        assert running.stop() == 0


def test_what_a_started_command_is_given(failing: Up, failing_folder: Path) -> None:
    match = failing.says(r"shown-1    \| (\d+)=(\d+) (.*)")
    assert match[1] == match[2]
    assert match[3] == f"127.0.0.1 shown shown-1 here {(failing_folder / 'below').resolve()}"


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--listen", "--admin"):
            with up(tmp_path, FILES, option, address) as running:
                assert running.ended() == 1
                (line,) = running.text.splitlines()
                assert line.startswith(f"passerelle | cannot listen on {address}: port {address[10:]} is taken by ")
                assert option in line


@pytest.mark.long
@pytest.mark.slow
def test_the_same_port_twice_by_two_of_us_is_refused_too(tmp_path: Path, files: Up) -> None:
    with up(tmp_path, behind(files), "--workers", "2") as first:
        port, _ = first.listening()
        with up(tmp_path, behind(files), "--workers", "2", "--listen", f"127.0.0.1:{port}") as second:
            assert second.ended() == 1
            assert f"port {port} is taken by" in second.text
        assert first.stop() == 0


def test_an_invalid_file_is_reported_with_its_place_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(FILES.replace("instances: 3", "instances: none"))
    code, text = invoke(tmp_path, "up")
    assert code == 1
    assert text.startswith("gateway.yaml:5:16: services.files.instances: found 'none'")


@pytest.mark.long
def test_a_log_that_cannot_be_opened_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # a pipe without a reader: only a start detects it
    with up(tmp_path, FILES + "access_log: pipe\n") as running:
        assert running.ended() == 1
        assert "gateway    | access_log: cannot open pipe: No such device or address\n" in running.text
        assert "passerelle | the gateway cannot be started\n" in running.text
        assert "Traceback" not in running.text


def test_access_log_lines_are_passed_on_whole_and_unnamed(files: Up) -> None:
    files.get("/hello.txt?x=1")
    assert files.says(r'(?m)^\{"time":.*"target":"/hello\.txt\?x=1".*\}$')


@pytest.mark.long
@pytest.mark.slow
def test_output_without_a_reader_blocks_nothing(tmp_path: Path) -> None:
    """A child writes without end and the reader of the output has stopped, but requests are served."""
    config = """
services:
  noisy: {run: [sh, -c, "yes noise & exec python -m http.server --bind 127.0.0.1 {port}"]}
routes:
  - {path: /, service: noisy}
"""
    (tmp_path / "gateway.yaml").write_text("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: off\n" + config)
    port = ports.free()
    argv = [*CLI, "up", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True) as popen:
        try:
            until_now(lambda: _answers(port), what="served though its output is stuck")
            for _ in range(20):
                assert _answers(port)
        finally:
            popen.send_signal(signal.SIGTERM)
            assert popen.stdout is not None
            popen.stdout.close()
            assert popen.wait(20) == 0


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_proxy_needs_no_file_and_balances(tmp_path: Path, files: Up) -> None:
    urls = [f"http://{instance['address']}" for instance in files.instances("files")]
    urls.append("http://127.0.0.1:1")
    with command(tmp_path, "proxy", *urls, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0") as proxy:
        proxy.listening()
        assert [proxy.get("/hello.txt") for _ in range(9)] == [(200, b"hello")] * 9
        assert proxy.get("/no%2Fsuch.txt")[0] == 404  # by the service: the proxy keeps encoded slashes
        listed = proxy.instances("upstream")
        assert [f"http://{i['address']}" for i in listed] == urls
        assert [i["state"] for i in listed] == ["up", "up", "up", "down"]
        assert listed[3]["problem"] == "connection refused"
        assert re.search(r"upstream-4 +down +127\.0\.0\.1:1 +connection refused\n", proxy.text)
        assert proxy.stop() == 0


def test_proxy_refuses_what_is_no_url(tmp_path: Path) -> None:
    assert invoke(tmp_path, "proxy", "ftp://x")[0] == 2
    assert invoke(tmp_path, "proxy")[0] == 2


def test_gateway_runs_alone_with_its_own_admin_port(tmp_path: Path, files: Up) -> None:
    url = f"http://{files.instances('files')[0]['address']}"
    (tmp_path / "alone.yaml").write_text(
        f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nservices: {{files: {{targets: ['{url}']}}}}\n"
        "routes: [{path: '/{rest*}', service: files}]\n"
    )
    with command(tmp_path, "gateway", "alone.yaml") as alone:
        _, admin = alone.listening()
        assert alone.get("/hello.txt") == (200, b"hello")
        assert len(alone.alive()) == 1, "one process"
        assert alone.get("/healthz", admin)[0] == alone.get("/readyz", admin)[0] == 200
        assert b"passerelle_requests_total" in alone.get("/metrics", admin)[1]
        assert alone.instances("files")[0]["state"] == "up"
        code, text = invoke(tmp_path, "status", "--admin", f"127.0.0.1:{admin}")
        assert code == 0
        assert "files-1" in text
        assert alone.stop(signal.SIGINT) == 0


def test_gateway_refuses_services_that_it_would_have_to_start(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(FILES)
    assert invoke(tmp_path, "gateway", "gateway.yaml") == (
        1,
        "gateway.yaml: `passerelle gateway` does not start services with app or run: files; "
        "give them targets, or use `passerelle up`\n",
    )


@pytest.mark.long
def test_gateway_alone_refuses_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "a.yaml").write_text(
            f"listen: 127.0.0.1:{port}\nadmin: off\nservices: {{a: {{targets: ['http://127.0.0.1:1']}}}}\n"
            "routes: [{path: /, service: a}]\n"
        )
        with command(tmp_path, "gateway", "a.yaml") as running:
            assert running.ended() == 1
            assert running.text.startswith(f"cannot listen on 127.0.0.1:{port}: port {port} is taken")
            assert running.text.endswith("; choose another with --listen\n")
        with command(tmp_path, "gateway", "a.yaml", "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{port}") as other:
            assert other.ended() == 1
            assert other.text.startswith(f"cannot listen on 127.0.0.1:{port}: port {port} is taken")
            assert other.text.endswith(" (the admin address); choose another with --admin, or off\n")


def test_status_without_a_gateway(tmp_path: Path) -> None:
    assert invoke(tmp_path, "status", "--admin", "127.0.0.1:1") == (
        1,
        "no response from a gateway at the admin address 127.0.0.1:1: connection refused; "
        "is the gateway running, or does it have another address (--admin)?\n",
    )


@pytest.mark.slow
def test_status_as_table_and_as_json(tmp_path: Path, files: Up) -> None:
    where = f"127.0.0.1:{files.admin}"
    code, text = invoke(tmp_path, "status", "--admin", where)
    assert code == 0
    for n in (1, 2, 3):
        assert re.search(rf"(?m)^files-{n} +up +127\.0\.0\.1:\d+ +\d+ +0 +0 +(\d+ min )?[\d.]+ s$", text)
    code, text = invoke(tmp_path, "status", "--json", env={"PASSERELLE_ADMIN": where})
    assert code == 0
    assert json.loads(text)["services"]["files"]["up"] == 3
    (tmp_path / "gateway.yaml").write_text(f"admin: {where}\n" + FILES)
    code, text = invoke(tmp_path, "status")
    assert code == 0
    assert "files-3" in text


CLIENTS = """
def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{scope['client'][0]} {scope['scheme']}".encode()})
"""


@pytest.mark.long
def test_applications_see_the_client_that_the_gateway_found(tmp_path: Path) -> None:
    (tmp_path / "apps.py").write_text(CLIENTS)
    config = """
trusted_proxies: [127.0.0.0/8]
services: {w: {app: "apps:wsgi"}, a: {app: "apps:asgi"}}
routes: [{path: /wsgi, service: w}, {path: /asgi, service: a}]
"""
    forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7, 127.0.0.3", "X-Forwarded-Proto": "https"}
    with up(tmp_path, config) as running:
        running.listening()
        for path in ("/wsgi", "/asgi"):
            assert running.get(path, **forwarded) == (200, b"203.0.113.7 https")
            assert running.get(path) == (200, b"127.0.0.1 http")
        assert running.stop() == 0


@pytest.mark.slow
def test_requests_in_flight_finish_before_the_services_are_stopped(tmp_path: Path) -> None:
    server = tmp_path / "slow.py"
    server.write_text(
        "import http.server, sys, time\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        print('began', flush=True); time.sleep(1.0)\n"
        "        self.send_response(200); self.send_header('Content-Length', '4'); self.end_headers()\n"
        "        self.wfile.write(b'done')\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    config = """
services: {slow: {run: [python, slow.py, "{port}"]}}
routes: [{path: /, service: slow}]
"""
    with up(tmp_path, config) as running:
        running.listening()
        answers: list[tuple[int, bytes]] = []
        thread = threading.Thread(target=lambda: answers.append(running.get("/")))
        thread.start()
        running.says("slow-1     \\| began")
        begun = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begun > 0.5
        thread.join(5)
        assert answers == [(200, b"done")]
