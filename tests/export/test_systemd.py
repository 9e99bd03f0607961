"""The unit of systemd: it runs the file with few rights, and has its paths, ports and variables."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from passerelle.export import systemd
from passerelle.export.checkers import SYSTEMD_ANALYZE
from passerelle.export.deployment import Deployment
from tests.export.serving import deployed, lost

SERVICES = {"u": {"targets": ["http://127.0.0.1:5000"]}}
ROUTES = [{"path": "/{rest*}", "service": "u"}]
ODD_PATHS = ["/srv/a b", "/srv/100%", "/srv/%n", "/srv/$HOME", "/srv/;#x", "/srv/caf\u00e9", "/srv/plain"]


def unit(folder: str = "/etc/passerelle", environ: dict[str, str] | None = None, **top: Any) -> list[str]:
    """Return the lines of the unit for a file in ``folder``."""
    model = deployed(json.dumps({**top, "services": SERVICES, "routes": ROUTES}), environ=environ)
    model.folder = Path(folder)
    return systemd.export(model, "/usr/local/bin/passerelle", "gate")[0].splitlines()


def test_the_unit_runs_reloads_and_stops_the_file() -> None:
    lines = unit()
    assert "ExecStart=/usr/local/bin/passerelle up /etc/passerelle/gateway.yaml" in lines
    assert "ExecReload=/bin/kill -HUP $MAINPID" in lines
    assert {"User=gate", "KillMode=mixed", "ProtectSystem=strict", "CapabilityBoundingSet="} <= set(lines)


def sockets(listen: Any, **top: Any) -> list[str]:
    """Return the lines of the unit of the sockets, and check it with systemd."""
    model = deployed(json.dumps({"listen": listen, **top, "services": SERVICES, "routes": ROUTES}))
    text = systemd.socket_unit(model)
    if text is None:
        return []
    found = SYSTEMD_ANALYZE.find()
    if found is not None:
        report = SYSTEMD_ANALYZE.run(found, "passerelle.socket", text)
        assert report is None or "passerelle.service" in report, report
    return text.splitlines()


def test_the_service_reports_its_state_and_has_the_sockets() -> None:
    lines = unit(listen=["0.0.0.0:443", "[::]:443"])
    assert {"Type=notify", "NotifyAccess=all", "WatchdogSec=30", "Requires=passerelle.socket"} <= set(lines)
    assert "Also=passerelle.socket" in lines
    assert not [line for line in unit(listen="localhost:0") if "passerelle.socket" in line]


def test_the_sockets_have_the_addresses_of_the_file() -> None:
    lines = sockets(["0.0.0.0:443", "[::]:443", {"address": "unix:/run/gw", "mode": "0600"}])
    assert lines.count("ListenStream=0.0.0.0:443") == lines.count("ListenStream=[::]:443") == 1
    assert {"ListenStream=/run/gw", "BindIPv6Only=ipv6-only", "SocketMode=0600"} <= set(lines)
    assert "BindIPv6Only=both" in sockets("[::]:443")
    assert "ListenStream=127.0.0.1:8080" in sockets(["127.0.0.1:8080", "localhost:8081", "127.0.0.1:0"])
    assert sockets(["localhost:8081", "127.0.0.1:0"]) == []


def test_sockets_that_one_unit_cannot_have_are_losses() -> None:
    listen = ["systemd:web", "unix:/run/a", {"address": "unix:/run/b", "mode": "0600"}]
    model = deployed(json.dumps({"listen": listen, "services": SERVICES, "routes": ROUTES}))
    losses = systemd.export(model, "/usr/local/bin/passerelle", "gate")[1]
    assert lost(model, losses) == ["listen[0]", "listen[2].mode"]


def test_a_low_port_needs_one_capability() -> None:
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in unit(listen="0.0.0.0:443")
    assert not [line for line in unit(listen="0.0.0.0:8443") if "CAP_" in line]


def test_descriptors_follow_the_connections_of_clients() -> None:
    assert "LimitNOFILE=65536" in unit()
    assert "LimitNOFILE=200000" in unit(limits={"connections": 100_000})


def test_folders_of_logs_and_stores_are_writable() -> None:
    lines = unit(access_log="log/access.log", keys={"store": "/var/lib/keys/keys.db"})
    assert [line for line in lines if "ReadWrite" in line] == [
        "ReadWritePaths=/etc/passerelle/log",
        "ReadWritePaths=/var/lib/keys",
    ]


def test_variables_and_secret_files_are_references(tmp_path: Path) -> None:
    lines = unit(
        environ={"TOKEN": "s3cret-0123456789-s3cret"},
        admin={"listen": "127.0.0.1:9900", "token": "${TOKEN}"},
        redis="redis://${HOST:-127.0.0.1}",
    )
    assert "# Lines NAME=VALUE, readable by root only, for: HOST, TOKEN" in lines
    assert "EnvironmentFile=/etc/passerelle/environment" in lines
    assert not [line for line in lines if "s3cret" in line]


def test_the_file_of_variables_is_optional_if_all_have_a_default() -> None:
    assert "EnvironmentFile=-/etc/passerelle/environment" in unit(redis="redis://${HOST:-127.0.0.1}")


@pytest.mark.parametrize("folder", ODD_PATHS)
def test_systemd_accepts_odd_paths(folder: str) -> None:
    lines = unit(folder, access_log="log/access.log")
    found = SYSTEMD_ANALYZE.find()
    if found is not None:
        report = SYSTEMD_ANALYZE.run(found, "passerelle.service", "\n".join(lines) + "\n")
        assert report is None, report


@pytest.mark.parametrize("folder", ODD_PATHS)
def test_odd_paths_are_read_back_as_they_are(folder: str) -> None:
    lines = dict(line.partition("=")[::2] for line in unit(folder, access_log="log/access.log") if "=" in line)
    plain = {key: value.replace("%%", "%").strip('"') for key, value in lines.items()}
    assert plain["WorkingDirectory"] == folder
    assert plain["ReadWritePaths"] == f"{folder}/log"
    words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(lines["ExecStart"])]
    assert words == ["/usr/local/bin/passerelle", "up", f"{folder}/gateway.yaml"]


def test_a_writable_folder_that_a_unit_cannot_name_is_a_loss() -> None:
    file = {"access_log": "a'b/x.log", "services": SERVICES, "routes": ROUTES}
    model = deployed(json.dumps(file))
    text, losses = systemd.export(model, "/usr/local/bin/passerelle", "gate")
    assert lost(model, losses) == ["access_log"]
    assert "a'b" not in text


def test_the_model_is_the_same_for_the_same_file() -> None:
    assert unit() == unit()
    assert isinstance(deployed(json.dumps({"services": SERVICES, "routes": ROUTES})), Deployment)


def test_the_user_and_the_group_of_the_file() -> None:
    assert "Group=bin" in unit(user="daemon", group="bin")
    model = deployed(json.dumps({"user": "daemon", "services": SERVICES, "routes": ROUTES}))
    _, losses = systemd.export(model, "/usr/local/bin/passerelle", "gate")
    assert lost(model, losses) == ["user"]
    assert lost(model, systemd.export(model, "/usr/local/bin/passerelle", "daemon")[1]) == []
