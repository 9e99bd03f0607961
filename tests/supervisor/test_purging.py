"""The arguments and the response of a purge."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from passerelle.cli.main import passerelle
from passerelle.supervisor.admin import PurgeResult, parse_purge, purge_response
from passerelle.supervisor.errors import ChangeRefused, InvalidChange


@pytest.mark.parametrize("asked", [{"tag": "user:42"}, {"path": "/user/*"}, {"all": "1"}])
def test_a_purge_is_of_one_thing(asked: dict[str, str]) -> None:
    assert parse_purge(asked) == next(iter(asked.items()))


@pytest.mark.parametrize("asked", [{}, {"tag": ""}, {"tag": "a", "path": "/b"}, {"all": "1", "x": "y"}, {"tags": "a"}])
def test_anything_else_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(ChangeRefused):
        parse_purge(asked)


def test_a_path_is_taken_in_its_canonical_form() -> None:
    assert parse_purge({"path": "/caf%c3%a9/*"}) == parse_purge({"path": "/café/*"}) == ("path", "/caf%C3%A9/*")
    assert parse_purge({"tag": "/caf%c3%a9"}) == ("tag", "/caf%c3%a9")


@pytest.mark.parametrize("path", ["user/42", "/a?x=1", "/a%zz", "https://shop.example/a"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidChange, match="found"):
        parse_purge({"path": path})
    done = CliRunner().invoke(passerelle, ["cache", "purge", "--path", path])
    assert done.exit_code == 2 and "found" in done.output


def test_a_purge_that_a_worker_did_not_receive_is_no_success() -> None:
    assert purge_response(PurgeResult(1, [])) == {"message": "purged 1 stored response", "purged": 1}
    with pytest.raises(ChangeRefused, match="gateway-2"):
        purge_response(PurgeResult(1, ["gateway-2"]))
