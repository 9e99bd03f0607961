"""``passerelle exec``: references in a command and its environment become values, which no message shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from passerelle.cli.main import main
from tests.supervisor.up import CLI


def test_the_command_takes_the_place_of_the_process_with_filled_words_and_variables(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p$x y\n")
    code = "import os, sys, json; print(json.dumps([os.environ['URL'], os.environ['KEPT'], sys.argv[1:], os.getpid()]))"
    process = subprocess.Popen(
        [
            *(*CLI, "exec", "--env", f"URL=postgresql://u:${{file:{tmp_path}/password}}@db/${{NAME:-x}}", "--"),
            *(sys.executable, "-c", code, "$$HOME", "--env", "${KEPT}", "-h"),
        ],
        env={**os.environ, "KEPT": "kept"},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    expected = f'["postgresql://u:p$x y@db/x", "kept", ["$HOME", "--env", "kept", "-h"], {process.pid}]'
    assert output == expected + "\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "passerelle exec: missing argument 'COMMAND...'"),
        (("--env", "1=x", "true"), 2, "passerelle exec: --env: found '1'; allowed is NAME=TEXT"),
        (("--env", "A", "true"), 2, "passerelle exec: --env: found 'A'; allowed is NAME=TEXT"),
        (
            ("--env", "A=${MISSING_HERE}", "true"),
            1,
            "passerelle: the variable A: the environment variable MISSING_HERE is not set",
        ),
        (("true", "${file:/missing}"), 1, "passerelle: word 2: the file /missing cannot be read"),
        (("/missing/program",), 127, "passerelle: cannot run /missing/program: no such file"),
        (("/etc",), 126, "passerelle: cannot run /etc: permission denied"),
    ],
)
def test_an_error_is_one_line(
    args: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["exec", *args])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (code, "", 1)
    assert err.lower().startswith(message.lower())


def test_a_nul_octet_is_refused_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\0")
    with pytest.raises(SystemExit) as ended:
        main(["exec", "--env", f"A=${{file:{tmp_path}/secret}}", "true"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "passerelle: the variable A: the value has a NUL octet (it is not shown)\n"
