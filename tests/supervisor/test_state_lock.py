"""One gateway at a time has the folder for state of a file with splits."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from passerelle.config import load_text
from passerelle.config.models.config import Config
from passerelle.supervisor.state_lock import StateInUse, StateLock
from tests.supervisor.helpers import until_now
from tests.supervisor.up import Up

SPLIT: dict[str, Any] = {"by": "address", "weights": {"new": 500}}


def text(state: str | None = None, *, split: bool = True, listen: str = "127.0.0.1:0", **top: Any) -> str:
    services = {name: {"targets": ["http://127.0.0.1:1"]} for name in ("old", "new")}
    route = {"path": "/{rest*}", "service": "old", **({"split": SPLIT} if split else {})}
    more = {} if state is None else {"state": state}
    return json.dumps({"listen": listen, "services": services, "routes": [route], **more, **top})


def config(state: str | None = None, **keys: Any) -> Config:
    return load_text(text(state, **keys))


def is_free(folder: Path) -> bool:
    lock = StateLock(folder)
    try:
        lock.take(config())
    except StateInUse:
        return False
    lock.release()
    return True


def test_a_second_gateway_with_the_same_state_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    one, two = StateLock(tmp_path), StateLock(tmp_path)
    one.take(config())
    one.take(config())
    with pytest.raises(
        StateInUse, match=rf"{tmp_path}/\.passerelle \(process {os.getpid()}, since 20[-0-9]+ [0-9:]+ UTC\)"
    ):
        two.take(config())
    one.release()
    two.take(config())
    two.release()


def test_gateways_that_share_no_state_run_side_by_side(tmp_path: Path) -> None:
    locks = [StateLock(tmp_path) for _ in range(4)]
    states = [config(), config(f"{tmp_path}/other"), config(split=False), config(split=False)]
    for lock, each in zip(locks, states, strict=True):
        lock.take(each)
    assert {path.name for path in tmp_path.iterdir()} == {".passerelle", "other"}
    for lock in locks:
        lock.release()


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / ".passerelle").write_text("not a folder")
    StateLock(tmp_path).take(config())
    assert (tmp_path / ".passerelle").read_text() == "not a folder"


def test_a_state_below_a_missing_folder_is_left_to_the_store(tmp_path: Path) -> None:
    StateLock(tmp_path).take(config(f"{tmp_path}/missing/state"))
    assert list(tmp_path.iterdir()) == []


def test_a_reload_takes_the_lock_of_its_file_and_keeps_no_other(tmp_path: Path) -> None:
    one, two = StateLock(tmp_path), StateLock(tmp_path)
    one.take(config(split=False))
    two.take(config())
    with pytest.raises(StateInUse):
        one.take(config())
    two.take(config(f"{tmp_path}/other"))
    two.release(config(f"{tmp_path}/other"))
    one.take(config())
    one.release(config())
    with pytest.raises(StateInUse):
        StateLock(tmp_path).take(config())
    one.release()
    two.release()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".passerelle").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / ".passerelle" / "lock").symlink_to(precious)
    StateLock(tmp_path).take(config())
    assert precious.read_text() == "kept"


def test_the_second_up_of_a_file_names_the_first_and_a_killed_one_hinders_none(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text(admin="127.0.0.1:0", access_log="off"))
    first = Up(tmp_path, "up", str(file))
    first.listening()
    for command in ("up", "gateway"):
        second = Up(tmp_path, command, str(file))
        second.says(r"another gateway runs with the state in \S+/\.passerelle \(process \d+, since 20\S+ \S+ UTC\)")
        assert second.ended() == 1
    unsplit = tmp_path / "unsplit.yaml"
    unsplit.write_text(text(admin="127.0.0.1:0", access_log="off", split=False))
    third = Up(tmp_path, "gateway", str(unsplit))
    third.listening()
    unsplit.write_text(file.read_text())
    third.popen.send_signal(signal.SIGHUP)
    third.says(r"another gateway runs with the state in [\s\S]*nothing was changed")
    for pid in first.alive():
        os.kill(pid, signal.SIGKILL)
    first.gone()
    until_now(lambda: is_free(tmp_path))  # the kernel closes files after the process has disappeared
    third.popen.send_signal(signal.SIGHUP)
    third.says(r"unsplit.yaml reloaded")
    assert third.stop() == 0
