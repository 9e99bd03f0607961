"""The configuration in force: reading the file, applying it, and the record of its problems."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from passerelle.config.loader import load_text
from passerelle.supervisor.active_config import ActiveConfig
from passerelle.supervisor.errors import ChangeRefused

TEXT = """\
listen: 127.0.0.1:8080
services: {a: {targets: ["http://127.0.0.1:1"]}}
routes: [{path: /, service: a}]
"""


def active(folder: Path, *, overrides: frozenset[str] = frozenset()) -> ActiveConfig:
    (folder / "gateway.yaml").write_text(TEXT)
    config = load_text(TEXT, "gateway.yaml", folder=folder)
    return ActiveConfig(config, TEXT, "gateway.yaml", folder / "gateway.yaml", overrides)


def test_fixed_keys_keep_the_values_in_force_and_are_listed(tmp_path: Path) -> None:
    current = active(tmp_path)
    changed = TEXT.replace("8080", "8081").replace("path: /", "path: /a") + "workers: 2\nadmin: 'off'\n"
    (tmp_path / "gateway.yaml").write_text(changed)
    candidate = current.read()
    assert candidate.after_restart == ["admin", "workers"]
    assert (candidate.config.admin, candidate.config.workers) == (current.config.admin, current.config.workers)
    assert candidate.config.address.port == 8081, "the listeners follow the file"
    assert current.config.routes[0].path == "/", "nothing is applied yet"
    assert current.apply(candidate) == {
        "message": "gateway.yaml reloaded; restart to apply the new values of: admin, workers",
        "after_restart": ["admin", "workers"],
    }
    assert (current.config.routes[0].path, current.text) == ("/a", changed)


def test_keys_that_the_command_line_replaced_are_not_listed(tmp_path: Path) -> None:
    current = active(tmp_path, overrides=frozenset({"listen"}))
    (tmp_path / "gateway.yaml").write_text(TEXT.replace("8080", "8081"))
    candidate = current.read()
    assert candidate.after_restart == [] and candidate.config.address.port == 8080


def test_every_error_of_the_file_is_a_problem_until_a_reload_succeeds(tmp_path: Path) -> None:
    current = active(tmp_path)
    (tmp_path / "gateway.yaml").write_text(TEXT.replace("service: a", "service: b").replace("8080", "99999"))
    with pytest.raises(ChangeRefused) as refused, current.reloading():
        current.apply(current.read())
    assert [problem.partition(": ")[0] for problem in refused.value.problems] == [
        "gateway.yaml:1:9",
        "gateway.yaml:3:29",
    ]
    assert current.problems == refused.value.problems
    (tmp_path / "gateway.yaml").unlink()
    with pytest.raises(ChangeRefused), current.reloading():
        current.read()
    assert current.problems == ("cannot read gateway.yaml: No such file or directory",)
    (tmp_path / "gateway.yaml").write_text(TEXT)
    with current.reloading():
        current.apply(current.read())
    assert current.problems == ()


def test_a_refusal_after_the_configuration_is_applied_is_not_a_problem_of_the_file(tmp_path: Path) -> None:
    current = active(tmp_path)

    def reload() -> None:
        with current.reloading():
            current.apply(current.read())
            raise ChangeRefused("an instance did not come up")

    with pytest.raises(ChangeRefused):
        reload()
    assert current.problems == ()


def test_without_a_file_a_reload_is_refused(tmp_path: Path) -> None:
    config = load_text(TEXT, "the command line", folder=tmp_path)
    current = ActiveConfig(config, TEXT, "the command line", None)
    with pytest.raises(ChangeRefused, match="there is no file to reload"), current.reloading():
        current.read()
    assert current.problems == ()


INCLUDING = "include: 'routes/*.yaml'\n" + TEXT


def test_a_change_of_an_included_file_is_followed_and_a_touch_is_not(tmp_path: Path) -> None:
    """The steps wait for polls of the files, so nothing depends on their times."""
    (tmp_path / "routes").mkdir()
    (tmp_path / "routes" / "a.yaml").write_text("routes: [{path: /a, service: a}]\n")
    (tmp_path / "gateway.yaml").write_text(INCLUDING)
    config = load_text(INCLUDING, str(tmp_path / "gateway.yaml"), folder=tmp_path)
    path = tmp_path / "gateway.yaml"
    current = ActiveConfig(config, INCLUDING, str(path), path, frozenset())
    reloads: asyncio.Queue[list[str] | tuple[str, ...]] = asyncio.Queue()

    async def reload() -> None:
        with contextlib.suppress(ChangeRefused), current.reloading():
            current.apply(current.read())
        reloads.put_nowait(current.problems or [route.path for route in current.config.routes])

    async def run() -> None:
        following = asyncio.create_task(current.follow(reload))
        try:
            (tmp_path / "routes" / "a.yaml").touch()
            (tmp_path / "routes" / "b.yaml").write_text("routes: [{path: /b, service: b}]\n")
            async with asyncio.timeout(30):
                (problem,) = await reloads.get()
                assert problem.startswith(f"{tmp_path}/routes/b.yaml:1:30: routes[2].service: found 'b'")
                (tmp_path / "routes" / "b.yaml").write_text("routes: [{path: /bb, service: a}]\n")
                assert await reloads.get() == ["/", "/a", "/bb"]
                (tmp_path / "routes" / "b.yaml").unlink()
                assert await reloads.get() == ["/", "/a"]
            assert reloads.empty()
        finally:
            following.cancel()

    asyncio.run(run())


def test_the_files_of_a_refused_reading_are_compared_as_well(tmp_path: Path) -> None:
    current = active(tmp_path)
    (tmp_path / "gateway.yaml").write_text("include: more.yaml\n" + TEXT)
    file = tmp_path / "gateway.yaml"
    follower = ActiveConfig(current.config, TEXT, str(file), file, frozenset())
    with pytest.raises(ChangeRefused):
        follower.read()
    assert [Path(name).name for name in follower.included.paths()] == ["more.yaml"]
