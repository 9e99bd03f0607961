"""What a purge is told, and what it tells."""

from __future__ import annotations

import pytest

from passerelle.runner.changes import Refused
from passerelle.runner.purging import told, wanted


@pytest.mark.parametrize("asked", [{"tag": "user:42"}, {"path": "/user/*"}, {"all": "1"}])
def test_a_purge_is_of_one_thing(asked: dict[str, str]) -> None:
    assert wanted(asked) == next(iter(asked.items()))


@pytest.mark.parametrize("asked", [{}, {"tag": ""}, {"tag": "a", "path": "/b"}, {"all": "1", "x": "y"}, {"tags": "a"}])
def test_anything_else_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(Refused):
        wanted(asked)


def test_a_purge_that_a_worker_did_not_hear_of_is_no_success() -> None:
    assert told(1) == {"message": "purged 1 stored answer", "purged": 1}
    with pytest.raises(Refused, match="gateway-2"):
        told(1, ["gateway-2"])
