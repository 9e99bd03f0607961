"""schemathesis with the shop's OpenAPI documents, through the gateway: the documented contract holds for any input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.shop import OPENAPI, TABLES, shop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 50
CHECKS = ",".join(
    ["not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)
# schemathesis runs as a command in a separate process, with its own hypothesis profile.
COMMAND = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_responses_are_as_documented_whatever_the_request(tmp_path: Path) -> None:
    # 501 is the gateway's response to TRACE, which schemathesis tries on every path.
    (tmp_path / "schemathesis.toml").write_text(
        '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", 501]\n'
    )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.attack.schema_hooks", "PYTHONPATH": path}
    with shop(tmp_path) as running:
        for name in TABLES:
            options = ["--url", f"http://127.0.0.1:{running.port}", "--max-examples", str(EXAMPLES), "--seed", "1"]
            options += ["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--generation-database", "none"]
            # No route leads to these.
            options += ["--exclude-path-regex", "^/(healthz|internal/)", "--no-color"]
            done = subprocess.run(
                [*COMMAND, str(OPENAPI / f"{name}.yaml"), *options],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
