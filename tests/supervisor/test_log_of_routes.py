"""The access log of a running gateway: standard error, a template, and routes that log nothing or errors only."""

from __future__ import annotations

from pathlib import Path

from tests.supervisor.helpers import until_now
from tests.supervisor.up import up

CONFIG = """\
access_log: stderr
access_log_format: '{method} "{target}" {status} {route}'
services: {nowhere: {targets: ["http://127.0.0.1:9"]}}
routes:
  - {path: /quiet, respond: 200, log: off}
  - {path: /broken, service: nowhere, log: errors}
  - {path: /fine, respond: 200, log: errors}
  - {path: /plain, respond: 200}
"""


def test_standard_error_has_the_lines_of_workers_alone(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with up(tmp_path, CONFIG, before=["sh", "-c", f'exec "$@" 2>{errors}', "sh"]) as running:
        running.listening()
        for path, status in (("/quiet", 200), ("/fine", 200), ("/broken", 503), ("/none", 404), ('/plain?a="', 200)):
            assert running.get(path)[0] == status
        until_now(lambda: "/plain" in errors.read_text())
        assert running.stop() == 0
        assert errors.read_text().splitlines() == [
            'GET "/broken" 503 /broken',
            'GET "/none" 404 unmatched',
            'GET "/plain?a=\\x22" 200 /plain',
        ]
        assert "/broken" not in running.text
