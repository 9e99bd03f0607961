"""The command line: output, exit codes, one-line errors."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from passerelle import __version__
from passerelle.cli.main import COMMANDS, main, passerelle
from passerelle.cli.support import LazyGroup

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
services:
  user: {targets: ["http://127.0.0.1:5001", "http://127.0.0.1:5002"]}
  product: {app: products:app, instances: 5}
  site: {run: "serve {port}"}
routes:
  - {path: "/{rest*}", service: site}
  - {path: "/user/{user_id}", methods: [GET], service: user, rewrite: "/internal/{user_id}", timeout: 500ms,
     attempts: 1}
  - {path: "/user/{user_id}", methods: [PUT, DELETE], service: user, body: 1MB}
  - {path: /user/me, host: api.example.com, service: user}
  - path: /api/{user_id}/{product_id}
    compose:
      user: {service: user, path: "/user/{user_id}", timeout: 5s, pass_status: [404]}
      product: {service: product, path: "/product/{product_id}", on_error: null}
"""

# Five planted errors: an unknown key, a bad duration, an unknown service, an unknown parameter, a key twice.
PLANTED = """\
lisen: 127.0.0.1:8080
services:
  user:
    targets: ["http://127.0.0.1:5001"]
    connect_timeout: 2
routes:
  - path: /user/{user_id}
    service: usr
  - path: /u/{id}
    service: user
    rewrite: /internal/{user_id}
    service: user
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder with a good ``gateway.yaml``: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    Path("gateway.yaml").write_text(GOOD)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run


def test_check_prints_ok_on_one_line(run: Run) -> None:
    assert run("check") == (0, "gateway.yaml: ok (3 services, 5 routes)\n", "")


def test_check_prints_five_planted_errors_on_five_lines(run: Run) -> None:
    Path("gateway.yaml").write_text(PLANTED)
    code, out, err = run("check", "gateway.yaml")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert [re.match(r"gateway\.yaml:(\d+):(\d+): ([^ ]+): .", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("1", "1", "lisen"),
        ("5", "22", "services.user.connect_timeout"),
        ("8", "14", "routes[0].service"),
        ("11", "14", "routes[1].rewrite"),
        ("12", "5", "routes[1].service"),
    ]
    assert "did you mean listen?" in lines[0]
    assert "did you mean user?" in lines[2]


def test_check_counts_one_as_one(run: Run) -> None:
    Path("gateway.yaml").write_text("services: {a: {app: a:b}}\nroutes: [{path: /, service: a}]\n")
    assert run("check")[1] == "gateway.yaml: ok (1 service, 1 route)\n"


def test_check_prints_warnings_to_stderr(run: Run) -> None:
    Path("gateway.yaml").write_text(GOOD.replace("  site:", "  old: {app: a:b}\n  site:"))
    assert run("check") == (
        0,
        "gateway.yaml: ok (4 services, 5 routes)\n",
        "gateway.yaml:4:3: services.old: warning: no route leads to this service\n",
    )


def test_check_as_json(run: Run) -> None:
    assert json.loads(run("check", "--json")[1]) == {
        "file": "gateway.yaml",
        "ok": True,
        "services": 3,
        "routes": 5,
        "errors": [],
        "warnings": [],
    }
    Path("gateway.yaml").write_text(PLANTED)
    code, out, _ = run("check", "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["ok"], found["services"], len(found["errors"])) == (False, None, 5)
    assert found["errors"][2] == {
        "file": "gateway.yaml",
        "line": 8,
        "column": 14,
        "key": "routes[0].service",
        "message": "found 'usr'; allowed: user; did you mean user?",
    }


def test_check_reports_folders_that_a_start_needs(run: Run) -> None:
    Path("gateway.yaml").write_text(
        "admin: off\naccess_log: var/access.log\n" + GOOD.replace("{app:", "{cwd: shop, app:")
    )
    told = [
        "gateway.yaml:2:13: access_log: cannot write var/access.log: the folder var does not exist; create it first\n",
        "gateway.yaml:5:18: services.product.cwd: cannot start in shop: no such folder\n",
    ]
    warned = "".join(line.replace(": cannot", ": warning: cannot") for line in told)
    assert run("check") == (1, "".join(told), "")
    for command in ("up", "gateway"):
        assert run(command) == (1, "", "".join(told))
    assert run("check", "--elsewhere") == (0, "gateway.yaml: ok (3 services, 5 routes)\n", warned)
    found = json.loads(run("check", "--elsewhere", "--json")[1])
    assert (found["ok"], [warning["key"] for warning in found["warnings"]]) == (
        True,
        ["access_log", "services.product.cwd"],
    )
    # These commands start nothing, so they succeed.
    for answered in (("routes",), ("explain", "GET", "/user/1")):
        code, out, err = run(*answered)
        assert (code, bool(out), err) == (0, True, warned)
    code, _, err = run("status")
    assert (code, err) == (
        2,
        "passerelle status: the admin port is off, so a running gateway cannot be reached"
        " (see passerelle status --help)\n",
    )
    Path("var").mkdir()
    Path("shop").mkdir()
    assert run("check") == (0, "gateway.yaml: ok (3 services, 5 routes)\n", "")


def test_the_file_is_looked_for_under_two_names(run: Run) -> None:
    Path("gateway.yaml").rename("passerelle.yaml")
    assert run("check")[:2] == (0, "passerelle.yaml: ok (3 services, 5 routes)\n")
    Path("passerelle.yaml").unlink()
    code, out, err = run("check")
    assert (code, out) == (2, "")
    assert err == (
        "passerelle check: found neither gateway.yaml nor passerelle.yaml in this folder; give the path of the file"
        " (see passerelle check --help)\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["chek"], "passerelle: no command 'chek'; allowed: up, "),
        (["chek"], "did you mean check?"),
        (["check", "nope.yaml"], "passerelle check: cannot read nope.yaml: no such file or directory"),
        (["check", "."], "passerelle check: cannot read .: is a directory"),
        (["check", "a", "b"], "passerelle check: got unexpected extra argument"),
        (["check", "--jsn"], "passerelle check: no such option"),
        (["routes", "nope.yaml"], "passerelle routes: cannot read nope.yaml"),
        (["--nope"], "passerelle: no such option"),
        (["explain"], "passerelle explain: missing argument"),
        (["explain", "GET"], "passerelle explain: found 1 argument; allowed is [CONFIG] METHOD URL"),
        (["explain", "a", "b", "c", "d"], "passerelle explain: found 4 arguments"),
        (["explain", "get", "/x"], "did you mean GET?"),
        (["explain", "GET", "x"], "allowed is a path such as /x, or http://host/path"),
        (["explain", "GET", "ftp://a/x"], "found the scheme 'ftp'"),
        (["explain", "GET", "/x", "-H", "nocolon"], "found the header 'nocolon'"),
        (["help"], "did you mean --help?"),
        (["instances", "lst"], "no command 'lst'; allowed: add, drain, list, remove, resume, weight; did you mean"),
        (["cache", "prge"], "passerelle cache: no command 'prge'; allowed: purge; did you mean purge?"),
        (
            ["keys", "creat"],
            "passerelle keys: no command 'creat'; allowed: create, digest, import, list, revoke, rotate; did",
        ),
        (["cache", "purge"], "exactly one of --tag T, --path P, --all is required"),
        (["cache", "purge", "--all", "--tag", "x"], "exactly one of --tag T, --path P, --all is required"),
        (["cache", "purge", "--path", "a/b"], "found the path 'a/b'; a path begins with /, such as /a/b"),
        (["up", "--workers", "two"], "found 'two'; allowed is a whole number from 1 to 256"),
        (["up", "--workers", "0"], "found 0; allowed is a whole number from 1 to 256"),
        (["up", "nope.yaml"], "passerelle up: cannot read nope.yaml: no such file or directory"),
        (["gateway", "."], "passerelle gateway: cannot read .: is a directory"),
        (["proxy"], "passerelle proxy: missing argument 'URL...'"),
        (["proxy", "127.0.0.1:1"], "did you mean http://127.0.0.1:1?"),
        (["proxy", "http://127.0.0.1:1", "--listen", "8080"], "allowed is host:port, such as 127.0.0.1:8080"),
        (["scale", "a"], "found 'a'; allowed is SERVICE=N, such as user=8, or SERVICE=auto"),
        (["restart"], "passerelle restart: missing argument 'SERVICE'"),
        (["instances", "add", "a"], "passerelle instances add: missing argument 'URL'"),
        (["instances", "drain", "a", "b", "--limit", "5"], "found 5 without a unit"),
        (["keys", "list"], "passerelle keys list: the configuration has no keys; add keys: {store: keys.db}"),
        (["explain", "GET", "/x", "-H", "Content-Length: x"], "found the Content-Length 'x'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run: Run, args: list[str], said: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert re.search(r"\(see passerelle.* --help\)\n$", err)


@pytest.mark.parametrize("command", [["routes"], ["explain", "GET", "/x"]])
def test_a_file_with_errors_ends_other_commands(run: Run, command: list[str]) -> None:
    Path("gateway.yaml").write_text(PLANTED)
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert err.count("\n") == 5


def test_routes_in_the_order_in_which_they_win(run: Run) -> None:
    code, out, err = run("routes")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "HOST             METHODS     PATH                         SERVICE                        REWRITE"
        "              TIMEOUT  ATTEMPTS  BODY   KEY",
        "api.example.com  *           /user/me                     user                                "
        "                30s      2         10MiB  routes[3]",
        "*                GET         /api/{user_id}/{product_id}  user: user + product: product       "
        "                30s      2         10MiB  routes[4]",
        "*                PUT,DELETE  /user/{user_id}              user                                "
        "                30s      2         1MB    routes[2]",
        "*                GET         /user/{user_id}              user                           /internal/{user_id}"
        "  500ms    1         10MiB  routes[1]",
        "*                *           /{rest*}                     site                                "
        "                30s      2         10MiB  routes[0]",
    ]


def test_routes_as_json(run: Run) -> None:
    found = json.loads(run("routes", "--json")[1])
    assert [route["index"] for route in found] == [3, 4, 2, 1, 0]
    assert found[3] == {
        "index": 1,
        "host": None,
        "methods": ["GET"],
        "path": "/user/{user_id}",
        "service": "user",
        "compose": None,
        "rewrite": "/internal/{user_id}",
        "encoded_slashes": "refuse",
        "log": "all",
        "rewrite_response": False,
        "timeout": 0.5,
        "attempts": 1,
        "attempt_timeout": None,
        "stream_idle_timeout": 300.0,
        "tunnel_idle_timeout": 3600.0,
        "tell_deadline": False,
        "body": 10485760,
        "match": [],
        "priority": 0,
        "guards": [],
        "plugins": [],
        "headers": [],
        "cache": None,
        "compress": None,
        "hedge": None,
        "shadow": None,
        "split": None,
        "rollout": None,
        "redirect": None,
        "respond": None,
        "static": None,
        "login": None,
        "logout": False,
        "oidc": False,
        "services": {
            "user": {
                "name": "user",
                "source": "targets",
                "instances": 2,
                "max_instances": None,
                "balance": "p2c",
                "by": None,
                "sticky": None,
                "concurrency": None,
                "path": None,
                "host": "client",
                "forwarding": [],
            }
        },
    }
    assert found[1]["compose"]["product"] == {
        "service": "product",
        "path": "/product/{product_id}",
        "timeout": 30.0,
        "required": False,
        "pass_status": [],
        "fallback": None,
        "cache": None,
        "split": None,
    }
    assert list(found[1]["services"]) == ["user", "product"]


def test_schema_is_json(run: Run) -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_version(run: Run) -> None:
    code, out, _ = run("version")
    assert code == 0
    assert out.splitlines()[0].split() == ["passerelle", __version__]
    assert {"python", "pydantic", "uvloop"} <= {line.split()[0] for line in out.splitlines()}
    assert json.loads(run("version", "--json")[1])["passerelle"] == __version__
    assert run("--version")[1] == f"passerelle {__version__}\n"


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    running = ("up", "gateway", "proxy", "status", "reload", "scale", "restart")
    for name in (*running, "check", "routes", "explain", "schema", "version"):
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE)
    assert run("-h")[1] == out
    assert run()[0] == 2


@pytest.mark.parametrize("group", [[], ["instances"], ["cache"], ["keys"]])
def test_lists_of_commands_have_whole_sentences(run: Run, group: list[str]) -> None:
    code, out, _ = run(*group, "--help")
    assert code == 0
    commands = out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert commands
    assert [line for line in commands if not re.search(r"^  [a-z]+ +[A-Z].*[a-z`0-9]\.$", line) or "..." in line] == []


@pytest.mark.parametrize("command", [["status"], ["reload"], ["cache", "purge", "--all"], ["instances", "list"]])
def test_no_gateway_at_the_admin_address(run: Run, command: list[str]) -> None:
    text = "no response from a gateway at the admin address 127.0.0.1:1{}: connection refused; "
    text += "is the gateway running, or does it have another address (--admin)?\n"
    assert run(*command, "--admin", "127.0.0.1:1") == (1, "", text.format(""))
    # The address of the file is used even if the file has errors, because the command may be the way to see them.
    for wrong in ("", "lisen: x\n", "access_log: no/folder\n"):
        Path("gateway.yaml").write_text("admin: 127.0.0.1:1\n" + wrong + GOOD)
        assert run(*command) == (1, "", text.format(" (of gateway.yaml)"))
    Path("gateway.yaml").write_text("admin: off\nlisen: x\n" + GOOD)
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert "the admin port is off, so a running gateway cannot be reached" in err


def test_another_server_at_the_admin_address(run: Run) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            code, out, err = run("status", "--admin", f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert (code, out) == (1, "")
    text = ": found status 501 unsupported method ('get'); is the gateway running, or does it have another address"
    assert f"{text} (--admin)?\n" in err


def test_a_file_and_a_folder_that_may_not_be_read(run: Run, tmp_path: Path) -> None:
    run("check")
    run("status", "--admin", "127.0.0.1:1")  # imports what the commands need, before the permissions change
    user = os.geteuid()
    Path("gateway.yaml").chmod(0)
    tmp_path.chmod(0o700 if user == 0 else 0o600)
    try:
        if user == 0:
            os.seteuid(65534)
        for command in ("check", "up", "routes"):
            code, out, err = run(command, "gateway.yaml")
            assert (code, out) == (2, "")
            assert err.startswith(f"passerelle {command}: cannot read gateway.yaml: permission denied")
        code, out, err = run("check")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("passerelle check: found neither gateway.yaml nor passerelle.yaml in this folder")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    code = "from passerelle.cli.main import main; main()"
    for command in ("check", "routes", "version"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code, command], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert (done.returncode, done.stderr) == (1, "passerelle: cannot write the output: no space left on device\n")


@pytest.mark.parametrize("name", ["check", "routes", "explain", "schema"])
def test_help_has_examples(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Examples:\n    passerelle {name}" in out


def test_commands_are_imported_when_they_are_used() -> None:
    code = (
        "import sys\nfrom passerelle.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        "print([name for name in ('uvloop', 'httptools', 'asyncio', 'prometheus_client') if name in sys.modules])"
    )
    config = "services: {a: {app: a:b}}\nroutes: [{path: /, service: a}]\n"
    done = subprocess.run(
        [sys.executable, "-c", code, "check", "/dev/stdin"], input=config, capture_output=True, text=True, check=True
    )
    assert done.stdout == "/dev/stdin: ok (1 service, 1 route)\n[]\n"


def test_a_click_error_that_is_no_usage_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise click.ClickException("It broke.\nBadly.")

    monkeypatch.setattr("passerelle.cli.check.check", broken)
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "passerelle: it broke. Badly\n"


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("passerelle.cli.check.check", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 130


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    command = f"{sys.executable} -c 'from passerelle.cli.main import main; main()' schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def in_terminal(folder: Path, *args: str, **environ: str) -> str:
    """What the command prints to a terminal."""
    master, slave = pty.openpty()
    try:
        code = "from passerelle.cli.main import main; main()"
        env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | environ
        process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=slave, stderr=slave, cwd=folder, env=env)
        process.wait(30)
        return os.read(master, 1 << 16).decode()
    finally:
        os.close(slave)
        os.close(master)


def test_colours_on_a_terminal_only(tmp_path: Path, run: Run) -> None:
    assert "\x1b[32mok\x1b[0m" in in_terminal(tmp_path, "check")
    assert "\x1b[" not in in_terminal(tmp_path, "check", NO_COLOR="1")
    assert "\x1b[" in in_terminal(tmp_path, "check", NO_COLOR="")
    assert "\x1b[" not in run("explain", "GET", "/user/1")[1]


def test_completion_offers_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from passerelle.cli.main import main; main()"],
        env=os.environ | {"_PASSERELLE_COMPLETE": "bash_complete", "COMP_WORDS": "passerelle c", "COMP_CWORD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "plain,cache\nplain,certs\nplain,check\nplain,capacity\nplain,completion\n"


def test_every_lazy_command_is_there() -> None:
    assert isinstance(passerelle, LazyGroup)
    with click.Context(passerelle) as ctx:
        for name in passerelle.list_commands(ctx):
            command = passerelle.get_command(ctx, name)
            assert command is not None
            assert command.name == name
            assert command.get_short_help_str(200)


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    summary = re.findall(r"^\| `passerelle ([a-z]+)", page, re.MULTILINE)
    assert sorted(summary) == sorted(COMMANDS)
    assert sorted(re.findall(r"^## ([a-z]+)$", page, re.MULTILINE)) == sorted(COMMANDS)


def test_every_module_with_a_command_is_registered() -> None:
    modules = [path.stem for path in (ROOT / "src/passerelle/cli").glob("*.py")]
    found = [getattr(importlib.import_module(f"passerelle.cli.{name}"), name, None) for name in modules]
    # The module of a command that is a keyword of Python has an underscore behind its name.
    assert sorted(str(each.name) for each in found if isinstance(each, click.Command)) == sorted(COMMANDS)


def test_python_can_run_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "passerelle", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("passerelle ")


@pytest.mark.parametrize("word", ["http://127.0.0.1:1", "http://127.0.0.1:1/", "127.0.0.1:1", ":1", "1"])
def test_the_admin_address_may_be_a_url_or_a_port(run: Run, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "no response from a gateway at the admin address 127.0.0.1:1: connection refused; "
    assert run("status", "--admin", word)[2].startswith(text)
    monkeypatch.setenv("PASSERELLE_ADMIN", word)
    assert run("status")[2].startswith(text)


def test_an_admin_address_with_https_is_refused_with_what_to_write(run: Run) -> None:
    code, _, err = run("status", "--admin", "https://127.0.0.1:1")
    assert code == 2
    assert "the admin port speaks plain HTTP: write http://127.0.0.1:1" in err
