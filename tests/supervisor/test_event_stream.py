"""Events of a running system: processes, health, breakers, reloads, changes, certificates; and the live view of it."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.helpers import until_now
from tests.supervisor.test_reconciler import HEAD, SERVE, config
from tests.supervisor.up import Up, command, invoke
from tests.support.secure import Authority

TOKEN = "a-token-of-32-visible-characters"


def events(running: Up, query: str = "") -> list[dict[str, Any]]:
    code, body = running.get(f"/events{query}", running.admin)
    assert code == 200
    found: list[dict[str, Any]] = json.loads(body)["events"]
    return found


def kinds(running: Up, query: str = "") -> list[str]:
    return [event["kind"] for event in events(running, query)]


def live(running: Up) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(running.get("/live", running.admin)[1])
    return value


@pytest.mark.slow
def test_the_life_of_instances_workers_and_files(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "gateway.yaml").write_text(config(2))
    with command(tmp_path, "up") as running:
        running.listening()
        begun = events(running)
        assert sorted(event["text"] for event in begun) == ["gateway is up", "s-1 is up", "s-2 is up"]
        assert [event["worker"] for event in begun if event["service"] is None] == ["gateway"]

        first = next(event for event in begun if event["instance"] == "s-1")
        os.kill(first["detail"]["pid"], signal.SIGKILL)
        until_now(lambda: kinds(running, "?kind=end,restart") == ["end", "restart"])
        end, restart = events(running, "?kind=end,restart")
        assert (end["service"], end["instance"], end["worker"]) == ("s", "s-1", None)
        assert "SIGKILL" in end["detail"]["reason"]
        assert restart["text"] == "s-1 is up again" and restart["detail"]["pid"] != first["detail"]["pid"]

        (worker,) = running.named("worker_start")
        os.kill(worker, signal.SIGKILL)
        until_now(lambda: [e["worker"] for e in events(running, f"?since={restart['seq']}")] == ["gateway"] * 2)

        (tmp_path / "gateway.yaml").write_text(config(2).replace("balance:", "balanc:"))
        assert invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{running.admin}")[0] == 1
        (tmp_path / "gateway.yaml").write_text(config(3))
        assert invoke(tmp_path, "reload", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
        refused, applied = events(running, "?kind=reload")
        assert refused["detail"]["outcome"] == "refused" and "balanc" in refused["detail"]["problems"][0]
        assert applied["detail"]["outcome"] == "applied"
        assert [event["detail"]["outcome"][:7] for event in events(running, "?kind=audit")] == ["refused", "done"]
        running.says(r"passerelle \| audit: reload by local from 127\.0\.0\.1: done\n")

        assert invoke(tmp_path, "scale", "s=1", "--admin", f"127.0.0.1:{running.admin}")[0] == 0
        (scale,) = events(running, "?kind=scale")
        assert scale["detail"] == {"before": 3, "instances": 1, "reason": "manual"}
        stopped = [e["text"] for e in events(running, "?kind=end") if e["detail"]["reason"] == "stopped"]
        assert sorted(stopped) == ["s-2 was stopped", "s-3 was stopped"]
        metrics = running.get("/metrics", running.admin)[1]
        assert b'passerelle_events_total{kind="scale"} 1.0' in metrics
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_ejections_and_breakers_of_all_workers(tmp_path: Path) -> None:
    wrong = "200 if path == '/' or os.path.exists('well') else 500"
    (tmp_path / "serve.py").write_text(SERVE.replace("status = 200", f"status = {wrong}"))
    keys = "    eject: {failures: 3, time: 1s}\n    breaker: {minimum: 5, open: 1s}\n    slow_start: 1s\n"
    (tmp_path / "gateway.yaml").write_text(config(2).replace("routes:", f"{keys}routes:"))
    with command(tmp_path, "up") as running:
        running.listening()

        def breaker() -> object:
            running.get("/x")
            return [event["text"] for event in events(running, "?kind=breaker")]

        until_now(lambda: breaker() == ["the circuit breaker of s is open"])
        (event,) = events(running, "?kind=breaker")
        assert (event["service"], event["worker"]) == ("s", "gateway")
        until_now(lambda: live(running)["services"]["s"].get("breaker") == "open")
        (tmp_path / "well").touch()
        until_now(lambda: str(breaker()).endswith("is closed']"))
        until_now(
            lambda: kinds(running, "?kind=ejection,return") in (["ejection", "return"], ["ejection", "return"] * 2)
        )
        assert events(running, "?kind=ejection")[0]["instance"] in ("s-1", "s-2")
        assert running.stop() == 0


def test_events_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(
        HEAD + "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    )
    with command(tmp_path, "up") as running:
        running.listening()
        where = ("--admin", f"127.0.0.1:{running.admin}")
        with command(tmp_path, "events", "--json", "--follow", *where) as following:
            following.says("gateway is up")
            assert invoke(tmp_path, "cache", "purge", "--all", *where)[0] == 0
            following.says("cache/purge")
            lines = [json.loads(line) for line in following.text.splitlines()]
            assert [line["kind"] for line in lines if line["kind"] in ("start", "audit")] == ["start", "audit"]
            # The stream is requested again when the gateway is back.
        code, text = invoke(tmp_path, "events", "--kind", "audit", *where)
        assert code == 0
        assert text.endswith("audit        cache/purge all='1' by local from 127.0.0.1: done\n")
        assert text.count("\n") == 1
        assert invoke(tmp_path, "events", "--since", str(lines[-1]["seq"]), *where) == (0, "")
        assert invoke(tmp_path, "events", "--kind", "audits", *where)[0] == 2
        assert running.stop() == 0


def test_the_token_is_needed_beyond_loopback_and_commands_send_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    text = "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    admin = "{listen: '0.0.0.0:0', token: '${file:token}'}"
    (tmp_path / "gateway.yaml").write_text(f"listen: 127.0.0.1:0\nadmin: {admin}\naccess_log: 'off'\n{text}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with command(tmp_path, "up") as running:
        running.port, running.admin = map(
            int, running.says(r"listening on http://127\.0\.0\.1:(\d+) · admin http://0\.0\.0\.0:(\d+)").groups()
        )
        where = ("--admin", f"127.0.0.1:{running.admin}")
        assert running.get("/healthz", running.admin)[0] == 200
        assert running.get("/status", running.admin)[0] == 401
        assert running.get("/metrics", running.admin)[0] == 401
        assert running.get("/status", running.admin, Authorization=f"Bearer {TOKEN}")[0] == 200
        code, output = invoke(elsewhere, "status", *where)
        assert code == 1
        assert output == (
            f"the admin port at 127.0.0.1:{running.admin}: it needs a token; "
            "give --admin-token-file or PASSERELLE_ADMIN_TOKEN\n"
        )
        code, output = invoke(elsewhere, "status", *where, env={"PASSERELLE_ADMIN_TOKEN": "x" * 20})
        assert code == 1
        assert "it refused the token" in output
        code, output = invoke(elsewhere, "status", *where, env={"PASSERELLE_ADMIN_TOKEN": "x y"})
        assert code == 2
        assert "PASSERELLE_ADMIN_TOKEN: a token has 16 to 512 visible ASCII characters" in output
        assert invoke(elsewhere, "events", "--follow", *where)[0] == 1
        for options, env in (
            (("--admin-token-file", str(tmp_path / "token")), {}),
            ((), {"PASSERELLE_ADMIN_TOKEN": TOKEN}),
        ):
            code, output = invoke(elsewhere, "reload", *where, *options, env=env)
            assert code == 0, output
        audits = running.get("/events?kind=audit", running.admin, Authorization=f"Bearer {TOKEN}")[1]
        assert audits.count(b'"by":"token"') == 2
        assert TOKEN.encode() not in audits and TOKEN not in running.text
        assert running.stop() == 0


def test_an_admin_port_that_others_can_reach_is_not_started_without_a_token(tmp_path: Path) -> None:
    text = "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    (tmp_path / "gateway.yaml").write_text(f"admin: 0.0.0.0:0\n{text}")
    code, output = invoke(tmp_path, "check")
    assert code == 1
    assert "which other machines can reach, without a token" in output
    (tmp_path / "gateway.yaml").write_text(f"listen: 127.0.0.1:0\n{text}")
    for name in ("up", "gateway"):
        code, output = invoke(tmp_path, name, "--admin", "0.0.0.0:0")
        assert code == 2
        assert "it has no token; give --admin-token-file" in output
    (tmp_path / "token").write_text(TOKEN)
    with command(tmp_path, "gateway", "--admin", "0.0.0.0:0", "--admin-token-file", "token") as running:
        running.admin = int(running.says(r"admin http://0\.0\.0\.0:(\d+)")[1])
        assert running.get("/live", running.admin)[0] == 401
        found = running.get("/live", running.admin, Authorization=f"Bearer {TOKEN}")
        until_now(lambda: found[0] == 200)
        assert running.stop() == 0


@pytest.mark.long
@pytest.mark.slow
def test_certificates_that_are_renewed_are_one_event_of_all_workers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("gateway", "localhost")
    text = "services: {s: {targets: ['http://127.0.0.1:1']}}\nroutes: [{path: /, service: s}]\n"
    tls = "tls: {certificate: gateway.pem, key: gateway.key}\nworkers: 2\n"
    (tmp_path / "gateway.yaml").write_text(HEAD + tls + text)
    with command(tmp_path, "up") as running:
        running.admin = int(running.says(r"admin http://127\.0\.0\.1:(\d+)")[1])
        authority.issue("gateway", "localhost")
        until_now(lambda: running.text.count("tls: certificates reloaded") == 2)
        renewed = events(running, "?kind=certificate")
        assert [event["text"] for event in renewed] == ["tls: certificates reloaded"]
        assert running.stop() == 0


@pytest.mark.slow
def test_the_live_view_follows_the_traffic_of_all_workers(tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "gateway.yaml").write_text(config(2).replace(HEAD, f"{HEAD}workers: 2\n"))
    with command(tmp_path, "up") as running:
        running.listening()
        for _ in range(40):
            assert running.get("/x")[0] == 200

        def counted() -> float:
            found = json.loads(running.get("/history", running.admin)[1])
            times, values = found["times"], found.get("routes", {}).get("/{rest*}", {}).get("requests", [])
            gaps = [1.0, *(b - a for a, b in pairwise(times))]
            return sum((value or 0) * gap for value, gap in zip(values, gaps, strict=False))

        until_now(lambda: counted() == pytest.approx(40, rel=0.2), what=counted)
        until_now(lambda: all("cpu" in values for values in live(running)["workers"].values()))
        now = live(running)
        assert now["workers"].keys() == {"gateway-1", "gateway-2"}
        assert all(0 <= values["cpu"] < 2 and values["memory"] > 1e6 for values in now["workers"].values())
        assert {name: values["state"] for name, values in now["services"]["s"]["instances"].items()} == {
            "s-1": "up",
            "s-2": "up",
        }
        os.kill(now["services"]["s"]["instances"]["s-1"]["pid"], signal.SIGKILL)
        until_now(lambda: live(running)["services"]["s"]["instances"]["s-1"].get("restarts") == 1)
        assert running.stop() == 0
