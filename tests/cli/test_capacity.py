"""``passerelle capacity``: what it refuses, its load, and its report of known measurements."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click.testing
import pytest

from passerelle.cli import closed_loop
from passerelle.cli.capacity import LEVELS, capacity
from passerelle.cli.closed_loop import ClosedLoop, Measurement
from passerelle.scaling.usl import Law
from passerelle.system.process_stats import cpus
from tests.supervisor.dashboard.system import Served, System
from tests.support.upstream import Upstream, answering, ok

FILE = """
listen: LISTEN
services:
  s: {app: "a:b", instances: 2}
  many: {app: "a:b", instances: {min: 2, max: 4}}
routes:
  - {path: /page, service: s}
  - {path: /many, service: many}
  - {path: /stored, service: s, cache: {ttl: 1s}}
  - {path: /posted, service: s, methods: [POST]}
"""
LAW = Law(100.0, 0.05, 0.001)
NEEDED = ceil(2 * 3000 / LAW.throughput(LAW.knee))

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*arguments: str, listen: str = "127.0.0.1:8080") -> click.testing.Result:
        path = tmp_path / "gateway.yaml"
        path.write_text(FILE.replace("LISTEN", listen))
        return click.testing.CliRunner().invoke(capacity, [str(path), *arguments])

    return run


def measured(clients: int, **more: Any) -> Measurement:
    """Return what a system with ``LAW`` gives in one second."""
    served = round(LAW.throughput(clients) * 100)
    return Measurement(**{"clients": clients, "seconds": 100.0, "statuses": Counter({200: served}), **more})


class Scripted:
    """A load that returns ``measured``, without clients."""

    result = staticmethod(measured)

    def __init__(self, *_: object) -> None:
        pass

    async def measure(self, clients: int, warm_up: float, seconds: float) -> Measurement:
        found = type(self).result(clients)
        found.busy = clients * found.seconds
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Load(Scripted):
        pass

    monkeypatch.setattr(closed_loop, "ClosedLoop", Load)
    return Load


@pytest.mark.parametrize(
    ("listen", "arguments", "problem"),
    [
        ("0.0.0.0:8080", ["/page"], "allowed at a loopback address only"),
        ("10.0.0.5:8080", ["/page"], "the gateway listens at 10.0.0.5:8080"),
        ("127.0.0.1:8080", ["/page", "--listen", "192.0.2.1:80"], "the gateway listens at 192.0.2.1:80"),
        ("127.0.0.1:8080", ["/page", "--listen", "nonsense"], "--listen: found 'nonsense'"),
        ("127.0.0.1:0", ["/page"], "the port in the file is 0"),
        ("127.0.0.1:8080", ["/page", "--method", "POST"], "found the method 'POST'; allowed are GET and HEAD"),
        ("127.0.0.1:8080", ["/page", "--method", "DELETE"], "others may change data"),
        ("127.0.0.1:8080", ["/page", "-H", "X: a\r\nY: b"], "found a line break"),
        ("127.0.0.1:8080", ["/page", "/more"], "found 3 arguments"),
        ("127.0.0.1:8080", ["/page", "--most", "100000"], "range"),
        ("127.0.0.1:8080", ["/page", "--seconds", "3600"], "range"),
    ],
)
def test_what_is_refused_before_anything_is_sent(run: Run, listen: str, arguments: list[str], problem: str) -> None:
    result = run(*arguments, listen=listen)
    assert result.exit_code == 2
    assert problem in " ".join(result.output.split())


@pytest.mark.parametrize(("path", "problem"), [("/other", "rejected with 404"), ("/posted", "rejected with 405")])
def test_a_path_that_the_gateway_rejects_is_not_measured(run: Run, path: str, problem: str) -> None:
    result = run(path)
    assert result.exit_code == 1 and problem in result.output


def test_a_gateway_that_does_not_run_is_reported(run: Run) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = run("/page", "--seconds", "0.2", listen=f"127.0.0.1:{sock.getsockname()[1]}")
    assert result.exit_code == 1
    assert "no response from a gateway at 127.0.0.1:" in result.output and "is it running?" in result.output


def test_the_peak_the_knee_and_the_instances_are_reported(run: Run, scripted: type[Scripted], tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    result = run("/page", "--rate", "3000", "--svg", str(plot))
    assert result.exit_code == 0, result.output
    assert f"peak: {LAW.peak:.0f} requests/s" in result.output
    assert "at 31 in flight" in result.output
    knee = LAW.throughput(LAW.knee)
    assert f"knee: {knee:.0f} requests/s" in result.output
    assert f"3000 requests/s need {NEEDED} instances of s ({NEEDED} to {NEEDED}) at the knee" in result.output
    circles = ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}circle")
    assert len(list(circles)) == len([level for level in LEVELS if level <= 64])


def test_the_report_as_json(run: Run, scripted: type[Scripted]) -> None:
    found = json.loads(run("/page", "--rate", "3000", "--json").stdout)
    assert found["route"] == "/page" and found["problem"] is None
    assert found["peak"]["value"] == pytest.approx(LAW.peak, rel=0.001)
    assert found["needed"] == {"service": "s", "measured": 2, "value": NEEDED, "low": NEEDED, "high": NEEDED}
    assert found["steps"][0] == {"clients": 1, "in_flight": 1, "requests_per_second": 100, "errors": 0}


def test_a_peak_that_the_cpus_do_not_allow_is_not_predicted(run: Run, scripted: type[Scripted]) -> None:
    allowed = 0.97 * LAW.peak

    def with_cpus(clients: int) -> Measurement:
        return measured(clients, cpus=cpus() * LAW.throughput(clients) / allowed)

    scripted.result = staticmethod(with_cpus)
    result = run("/page", "--most", "16")
    assert result.exit_code == 0, result.output
    assert f"peak: {allowed:.0f} requests/s" in result.output
    assert "then all CPUs of this machine are busy" in result.output


def test_steps_that_do_not_determine_the_law_predict_nothing(run: Run, scripted: type[Scripted]) -> None:
    scripted.result = staticmethod(lambda clients: Measurement(clients, 100.0, Counter({200: 1000 * clients})))
    result = run("/page")
    assert result.exit_code == 1
    assert "no prediction: the throughput rises in proportion to the concurrency" in result.output
    assert "o" in result.output, "the measurements are shown"


def test_the_measurement_ends_where_requests_fail(run: Run, scripted: type[Scripted]) -> None:
    def failing(clients: int) -> Measurement:
        more = {503: 5000} if clients >= 12 else {}
        found = measured(clients)
        found.statuses.update(more)
        return found

    scripted.result = staticmethod(failing)
    result = run("/page")
    assert "requests fail at 12 clients (status 503): the measurement ended there" in result.output
    assert "\n16 " not in result.output


def test_the_measurement_ends_where_the_throughput_declines(run: Run, scripted: type[Scripted]) -> None:
    steep = Law(100.0, 0.05, 0.02)
    scripted.result = staticmethod(
        lambda clients: Measurement(clients, 100.0, Counter({200: round(steep.throughput(clients) * 100)}))
    )
    result = run("/page")
    assert "\n64 " not in result.output and f"peak: {steep.peak:.0f}" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/many", "--rate", "100"], "the number of instances is not known; give it with --instances"),
        (["/many", "--rate", "100", "--instances", "3"], "(3 were measured)"),
        (["/stored"], "the route is cached: stored responses are measured, not the service"),
    ],
)
def test_what_limits_the_result_is_reported(
    run: Run, scripted: type[Scripted], arguments: list[str], expected: str
) -> None:
    assert expected in run(*arguments).output


def load(port: int, clients: int, seconds: float = 0.3) -> Measurement:
    async def check() -> Measurement:
        loop = ClosedLoop("127.0.0.1", port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return await loop.measure(clients, 0.0, seconds)
        finally:
            loop.close()

    return asyncio.run(check())


def test_clients_count_every_response_and_keep_their_connections() -> None:
    upstream = Upstream(answering(ok(b"1")))
    try:
        found = load(upstream.port, 3)
        assert found.errors == 0 and found.served > 10
        # A response that arrives when the time is over is not counted.
        assert found.served <= len(upstream.requests) <= found.served + 3
        assert found.concurrency == pytest.approx(3, rel=0.2)
    finally:
        upstream.close()


def test_a_server_that_never_responds_ends_with_the_time() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        found = load(sock.getsockname()[1], 2)
    assert found.served == 0 and found.concurrency == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("response", [b"nonsense\r\n\r\n", b""])
def test_a_response_that_is_malformed_or_missing_is_an_error(response: bytes) -> None:
    def script(connection: Any) -> None:
        connection.read_request()
        connection.send(response)
        connection.close()

    upstream = Upstream(script)
    try:
        found = load(upstream.port, 1)
    finally:
        upstream.close()
    assert found.served == 0 and found.failed > 0
    assert "malformed" in found.problem or "closed" in found.problem


class Observed(System):
    """A service ``user`` whose load goes up and down; it follows ``LAW`` exactly."""

    level = staticmethod(lambda number: 20 ** (1 - abs(number / 60 - 1)))

    def tick(self) -> None:
        self.now += 1.0
        self.ticks = getattr(self, "ticks", 0) + 1
        concurrency = type(self).level(self.ticks)
        for _ in range(round(LAW.throughput(concurrency))):
            self._services["user"].observe(200, 0.01)
        counters = self.counters["user"]["user-1"]
        counters["occupied"] = counters.get("occupied", 0.0) + concurrency


@pytest.fixture(scope="module")
def observed() -> Iterator[Served]:
    served = Served(Observed())
    served.seconds(120)
    yield served
    served.close()


def from_history(served: Served, *arguments: str) -> click.testing.Result:
    admin = f"127.0.0.1:{served.port}"
    return click.testing.CliRunner().invoke(capacity, ["--from-history", *arguments, "--admin", admin])


def test_the_capacity_of_a_service_from_what_it_has_served(observed: Served, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    result = from_history(observed, "user", "--rate", "3000", "--svg", str(plot))
    assert result.exit_code == 0, result.output
    found = json.loads(from_history(observed, "user", "--rate", "3000", "--json").stdout)
    assert found["peak"]["value"] == pytest.approx(LAW.peak, rel=0.02)
    assert 100 <= found["seconds"] <= 120 and (found["instances"], found["problem"]) == (3, None)
    assert f"peak: {found['peak']['value']:.0f} requests/s" in result.output
    assert f"from {found['seconds']} seconds with 3 instances of user" in result.output
    assert f"3000 requests/s need {found['needed']['value']:.0f} instances of user" in result.output
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_history_that_does_not_determine_the_law_predicts_nothing(observed: Served) -> None:
    result = from_history(observed, "product")
    assert result.exit_code == 1 and "no prediction: no concurrency lasted for 5 seconds" in result.output
    result = from_history(observed, "usr")
    assert result.exit_code == 1 and "the history has no service 'usr'; did you mean user?" in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "a PATH is missing, or --from-history SERVICE"),
        (["--from-history", "user", "/page"], "the argument '/page' has no meaning beside it"),
        (["--from-history", "user", "--most", "8"], "--most has no meaning beside it"),
        (["--from-history", "user", "-H", "A: b"], "--header has no meaning beside it"),
    ],
)
def test_a_load_test_and_the_history_do_not_mix(arguments: list[str], problem: str) -> None:
    result = click.testing.CliRunner().invoke(capacity, arguments)
    assert result.exit_code == 2 and problem in " ".join(result.output.split())
