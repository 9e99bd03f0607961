"""The destination of the access log in exports: what another machine or nginx does not have."""

from __future__ import annotations

import json

import pytest

from passerelle.export.moved_file import is_local_log
from tests.export.serving import deployed, in_place

FILE = {
    "services": {"u": {"targets": ["http://10.0.0.1:5000"]}},
    "routes": [{"path": "/a", "service": "u", "log": "off"}, {"path": "/b", "service": "u", "log": "errors"}],
}


@pytest.mark.parametrize(
    ("where", "local"),
    [
        ("var/a.log", True),
        ("journald", True),
        ("syslog+unix:/dev/log", True),
        ("syslog+udp://127.0.0.1", True),
        ("syslog+tcp://[::1]:601", True),
        ("syslog+udp://logs.internal", False),
        ("stdout", False),
        ("off", False),
    ],
)
def test_what_a_container_does_not_have(where: str, local: bool) -> None:
    assert is_local_log(deployed(json.dumps({**FILE, "access_log": where})).config) is local


@pytest.mark.parametrize(
    ("settings", "line", "lost"),
    [
        ({}, "access_log /dev/stdout;", []),
        ({"access_log": "stderr"}, "access_log /dev/stderr;", []),
        ({"access_log": "syslog+udp://[::1]"}, 'access_log syslog:server=[::1]:514;', []),
        ({"access_log": "syslog+unix:/dev/log"}, "access_log syslog:server=unix:/dev/log;", []),
        ({"access_log": "journald"}, "access_log /dev/stdout;", ["access_log"]),
        ({"access_log": "syslog+tcp://h:1"}, "access_log /dev/stdout;", ["access_log"]),
        ({"access_log_format": "combined"}, "access_log /dev/stdout combined;", []),
        ({"access_log_format": "text"}, "access_log /dev/stdout combined;", ["access_log_format"]),
        ({"user": "daemon", "group": "bin"}, "user daemon bin;", []),
    ],
)  # fmt: skip
def test_what_nginx_writes(settings: dict[str, str], line: str, lost: list[str]) -> None:
    text, losses = in_place(deployed(json.dumps({**FILE, **settings})))
    assert line in [each.strip() for each in text.splitlines()]
    assert text.count("access_log off;") == 1
    assert sorted(losses) == sorted([*lost, "routes[1].log"])
