"""The user and the group of all processes: bound as root, run as another user, and what then cannot be opened."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import signal
import ssl
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.config import load_text
from passerelle.config.loader import inspect_text
from passerelle.errors import CannotStart
from passerelle.supervisor import identity
from passerelle.supervisor.identity import Identity, wanted_identity
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up, command, up
from tests.support.secure import Authority

USER = "daemon"
REST = "services: {a: {targets: ['http://127.0.0.1:9']}}\nroutes: [{path: /a, service: a}]\n"
APP = """\
import json, os
def app(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"]]).encode()]
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that other users can enter; those of pytest are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def owners(running: Up) -> dict[str, int]:
    """Return the user of each process, by its command line."""
    return {command: os.stat(f"/proc/{pid}").st_uid for pid, command in running.alive().items()}


@as_root
def test_all_processes_run_as_the_user(shared: Path) -> None:
    account = pwd.getpwnam(USER)
    (shared / "web.py").write_text(APP)
    (shared / "logs").mkdir()
    authority = Authority(shared)
    certificate, key = authority.issue("server", "localhost")
    for path in (certificate, key):
        Path(path).chmod(0o600)
    config = (
        f"user: {USER}\naccess_log: logs/access.log\nworkers: 2\ntls: {{certificate: {certificate}, key: {key}}}\n"
        "services: {web: {app: 'web:app'}, other: {app: 'web:app'}}\n"
        "routes: [{path: /, service: web, split: {weights: {other: 0}, by: address}}]\n"
    )
    with up(shared, config) as running:
        running.says(f"running as the user {USER}")
        port = running.says(r"listening on https://127\.0\.0\.1:(\d+)")[1]
        trusted = ssl.create_default_context(cafile=authority.file)
        with urllib.request.urlopen(f"https://localhost:{port}/", context=trusted) as response:
            uids, gids, groups, home = json.loads(response.read())
        assert (set(uids), set(gids), home) == ({account.pw_uid}, {account.pw_gid}, account.pw_dir)
        assert set(groups) == set(os.getgrouplist(USER, account.pw_gid)) and 0 not in groups
        until_now(lambda: set(owners(running).values()) == {account.pw_uid})  # the reaper drops last
        assert len(owners(running)) == 6
        log, state = shared / "logs/access.log", shared / ".passerelle"
        until_now(lambda: "/" in log.read_text())
        assert (log.stat().st_uid, log.stat().st_mode & 0o777) == (account.pw_uid, 0o640)
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (account.pw_uid, 0o750)
        worker = running.named("worker_start")[0]
        os.kill(worker, signal.SIGKILL)  # its successor has the key, which only root can read
        until_now(lambda: len(running.named("worker_start")) == 2 and worker not in running.named("worker_start"))
        running.popen.send_signal(signal.SIGHUP)
        running.says(r"tls\.(certificate|key): cannot read .*: Permission denied")
        running.says(
            f"the gateway runs as {USER} since its start as root; a restart reads files that only root can read"
        )
        running.says("nothing was changed")
        with urllib.request.urlopen(f"https://localhost:{port}/", context=trusted) as response:
            assert response.status == 200
        assert running.stop() == 0


@as_root
def test_one_gateway_alone(shared: Path) -> None:
    gid = grp.getgrnam("bin").gr_gid
    (shared / "gateway.yaml").write_text(
        f"listen: [127.0.0.1:0, 'unix:{shared}/gateway.sock']\nadmin: 127.0.0.1:0\nuser: {USER}\ngroup: bin\n"
        "access_log: stdout\n" + REST
    )
    with command(shared, "gateway", "gateway.yaml") as running:
        running.port = int(running.says(r"listening on http://127\.0\.0\.1:(\d+), unix:")[1])
        status = Path(f"/proc/{running.popen.pid}/status").read_text()
        uid = pwd.getpwnam(USER).pw_uid
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n" in status
        listener = (shared / "gateway.sock").stat()
        assert (listener.st_uid, listener.st_gid) == (uid, gid)
        running.get("/never")
        running.says('"target":"/never"')
        assert running.stop() == 0


@as_root
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("keys: {store: private/keys.db}\n", r"keys\.store: cannot write .*keys\.db.*\(as the user daemon\)"),
        ("access_log: log\n", r"access_log: cannot write log: no permission to write it \(as the user daemon\)"),
    ],
)
def test_files_that_the_user_cannot_open_end_the_start(shared: Path, config: str, message: str) -> None:
    (shared / "private").mkdir(0o700)
    (shared / "log").touch(0o600)
    with up(shared, f"user: {USER}\n" + config + REST) as running:
        running.says(message)
        assert running.ended() == 1


@as_root
@pytest.mark.parametrize("existing", [False, True])
def test_the_folder_of_ordered_certificates_belongs_to_the_user(shared: Path, existing: bool) -> None:
    folder, uid = shared / ".passerelle" / "certificates", pwd.getpwnam(USER).pw_uid
    if existing:
        folder.mkdir(mode=0o700, parents=True)
        (folder / "a.example.pem").touch(0o600)
    text = "tls: {auto: {names: a.example, directory: 'https://127.0.0.1:9/'}}\n" + REST
    config = load_text(text, str(shared / "gateway.yaml"))
    identity._own_state(Identity(USER, uid, uid, (uid,), "/"), config, shared)
    assert (shared / ".passerelle").stat().st_uid == uid
    if existing:
        assert {each.stat().st_uid for each in (folder, *folder.iterdir())} == {uid}


def test_an_unknown_user_and_a_group_without_user_are_errors_of_the_file() -> None:
    def errors(text: str) -> list[str]:
        return [str(problem) for problem in inspect_text(text + REST, "g.yaml").errors]

    assert errors("user: no-such-user\n") == [
        "g.yaml:1:7: user: found 'no-such-user'; there is no such user on this machine"
    ]
    assert errors("user: daemon\ngroup: no-such-group\n") == [
        "g.yaml:2:8: group: found 'no-such-group'; there is no such group on this machine"
    ]
    assert errors("group: bin\n") == ["g.yaml:1:1: group: found bin without user; set user as well"]
    assert errors("user: 0\n") == ["g.yaml:1:7: user: found 0; allowed is a name of this system, such as www-data"]
    report = inspect_text("user: no-such-user\n" + REST, "g.yaml", elsewhere=True)
    assert report.config is not None and len(report.warnings) == 1


def test_only_root_becomes_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwnam(USER)
    named = load_text(f"user: {USER}\n" + REST)
    assert wanted_identity(load_text(REST)) is None
    monkeypatch.setattr(os, "geteuid", lambda: account.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: account.pw_gid)
    assert wanted_identity(named) is None  # it runs as that user
    with pytest.raises(CannotStart, match=r"user: only root can become daemon; .* with the group bin"):
        wanted_identity(load_text(f"user: {USER}\ngroup: bin\n" + REST))
    monkeypatch.setattr(os, "geteuid", lambda: account.pw_uid + 1)
    with pytest.raises(CannotStart, match="user: only root can become daemon; start passerelle as root or as daemon"):
        wanted_identity(named)


@as_root
def test_links_of_others_are_not_given_away(shared: Path) -> None:
    account = pwd.getpwnam(USER)
    who = Identity(USER, account.pw_uid, account.pw_gid, (), account.pw_dir)
    state, outside = shared / "state", shared / "outside"
    state.mkdir()
    outside.touch()
    (state / "own.json").touch()
    (state / "link").symlink_to(outside)
    os.link(outside, state / "hard")
    configured = load_text(f"state: {state}\naccess_log: {shared}/log\n" + REST)
    identity._own_state(who, configured, shared)
    assert (state / "own.json").stat().st_uid == account.pw_uid
    assert outside.stat().st_uid == 0
    (shared / "log").symlink_to(shared / "elsewhere")
    identity._own_log(who, configured)
    assert not (shared / "elsewhere").exists()
    linked = shared / "linked"
    linked.symlink_to(state)
    with pytest.raises(OSError):
        identity._own_state(who, load_text(f"state: {linked}\n" + REST), shared)
