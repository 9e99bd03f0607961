"""The state of circuit breakers and adaptive limits in status and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supervisor.up import Up, command, invoke
from tests.support.upstream import Upstream, answering

FAILS = answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
FILE = (
    "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\naccess_log: 'off'\nservices:\n"
    "  weak: {{targets: ['{url}'], breaker: {{minimum: 2, open: 5m, max_open: 5m}}, eject: off}}\n"
    "  plain: {{targets: ['{url}'], concurrency: adaptive}}\n"
    "routes: [{{path: /weak, service: weak}}, {{path: /plain, service: plain}}]\n"
)


def gauges(running: Up) -> list[str]:
    _, body = running.get("/metrics", port=running.admin)
    lines = body.decode().splitlines()
    return [line.removeprefix("passerelle_upstream_") for line in lines if line.startswith("passerelle_upstream_br")]


def told(state: str) -> list[str]:
    states = ("closed", "open", "half_open")
    return [f'breakers{{service="weak",state="{each}"}} {float(each == state)}' for each in states]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gateway", "up"])
def test_the_state_is_in_status_and_metrics(tmp_path: Path, what: str) -> None:
    upstream = Upstream(FAILS)
    (tmp_path / "gateway.yaml").write_text(FILE.format(url=upstream.url))
    try:
        with command(tmp_path, what) as running:
            running.listening()
            services = running.status()["services"]
            assert services["weak"]["breaker"] == {"closed": 1} and services["plain"]["breaker"] is None
            assert gauges(running) == told("closed")
            limit = {"limit": 20, "running": 0, "waiting": 0}
            assert services["plain"]["concurrency"] == limit and services["weak"]["concurrency"] is None
            body = running.get("/metrics", port=running.admin)[1].decode()
            for name, number in limit.items():
                assert f'passerelle_upstream_concurrency_{name}{{service="plain"}} {float(number)}\n' in body
            assert [running.get("/weak")[0] for _ in range(3)] == [500, 500, 503]
            assert running.status()["services"]["weak"]["breaker"] == {"open": 1}
            assert gauges(running) == told("open")
            code, shown = invoke(tmp_path, "status", "--admin", f"127.0.0.1:{running.admin}")
            assert code == 0
            assert "circuit breaker of weak: open in 1 of 1 workers" in shown
            assert "concurrency limit of plain: 0 of 20 requests running, 0 waiting" in shown
            assert running.stop() == 0
    finally:
        upstream.close()
