"""Included files: what is joined, where errors are, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from passerelle.config import LoadReport, inspect
from passerelle.config import includes as module
from passerelle.config.models.config import Config
from passerelle.config.reading import included

MAIN = """\
include: "routes/*.yaml"
services:
  user: {targets: ["http://127.0.0.1:5001"]}
routes:
  - {path: /main, service: user}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    """Write files; ``__`` in a name is a slash."""
    for name, text in files.items():
        path = Path(f"{name.replace('__', '/')}.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def check(path: str = "gateway.yaml", **environ: str) -> LoadReport:
    return inspect(path, environ)


def loaded(path: str = "gateway.yaml", **environ: str) -> Config:
    report = check(path, **environ)
    assert report.config is not None, report.errors
    return report.config


def errors(path: str = "gateway.yaml") -> list[str]:
    return list(map(str, check(path).errors))


def test_services_and_routes_of_all_files_are_joined_in_sorted_order() -> None:
    write(
        gateway=MAIN,
        routes__b="routes: [{path: /b, service: shop}]\nservices: {shop: {targets: ['http://127.0.0.1:2']}}\n",
        routes__a="routes:\n  - {path: /a, service: shop}\n  - {path: /a2, service: user}\n",
        routes__c="access_log: off\n",
        other="wrong",
    )
    Path("routes/.hidden.yaml").write_text("wrong")
    Path("routes/folder.yaml").mkdir()
    config = loaded()
    assert [route.path for route in config.routes] == ["/main", "/a", "/a2", "/b"]
    assert list(config.services) == ["user", "shop"] and config.access_log == "off"
    assert config.origins.routes == {
        0: "gateway.yaml:5",
        1: "routes/a.yaml:2",
        2: "routes/a.yaml:3",
        3: "routes/b.yaml:1",
    }


def test_a_file_may_consist_of_includes_which_may_include_others_relative_to_themselves() -> None:
    write(
        gateway="include: [parts/services.yaml, 'parts/routes-${STAGE}.yaml']\n",
        parts__services="services: {user: {targets: ['http://127.0.0.1:1'], tls: {}}}\n",
        **{"parts__routes-test": "include: more.yaml\n"},
        parts__more="defaults: {timeout: 3s}\nroutes: [{path: /a, service: user}]\naccess_log: a.log\n",
    )
    places = [f"{problem.file}: {problem.key}" for problem in check(STAGE="test").errors]
    assert places == ["parts/services.yaml: services.user.tls"], "there is no https target"
    write(parts__services="services: {user: {targets: ['http://127.0.0.1:1']}}\n")
    config = loaded(STAGE="test")
    assert config.routes[0].timeout == 3.0
    assert config.access_log == Path("a.log"), "other paths start at the folder of the main file"
    assert [str(error) for error in check().errors] == [
        "gateway.yaml:1:32: include: the environment variable STAGE is not set; set it or write ${STAGE:-default}"
    ]


def test_errors_have_the_file_and_line_of_the_value() -> None:
    write(
        gateway=MAIN.replace("path: /main, ", "path: /main, timeout: 5, "),
        routes__a="# one\nroutes:\n  - {path: /a, service: usr}\n  - {path: /b, service: '${NO}'}\n",
        routes__b="worker: 2\nroutes:\n  - {path: /a, service: user}\n  - path: /c\n    path: /d\n    service: user\n",
    )
    assert errors() == [
        "gateway.yaml:5:28: routes[0].timeout: found 5 without a unit; a duration has a unit (ms, s, m, h), such as "
        "250ms or 3s",
        "routes/a.yaml:3:25: routes[1].service: found 'usr'; allowed: user; did you mean user?",
        "routes/a.yaml:4:26: routes[2].service: the environment variable NO is not set; set it or write ${NO:-default}",
        "routes/b.yaml:1:1: worker: unknown key; did you mean workers?",
        "routes/b.yaml:3:12: routes[3].path: same path and method (every method) as routes[1]",
        "routes/b.yaml:5:5: routes[1].path: found twice; the first is at line 4",
    ]


def test_what_is_written_twice_in_several_files_is_an_error() -> None:
    write(
        gateway="access_log: off\n" + MAIN,
        routes__a="access_log: stdout\nservices:\n  user: {targets: ['http://127.0.0.1:2']}\nroutes: {}\n",
        routes__b="workers: 2\n",
        routes__c="workers: 2\n",
    )
    assert errors() == [
        "routes/a.yaml:1:1: access_log: found twice; the first is at gateway.yaml:1",
        "routes/a.yaml:3:3: services.user: found twice; the first is at gateway.yaml:4",
        "routes/a.yaml:4:1: routes: found twice; the first is at gateway.yaml:5",
        "routes/c.yaml:1:1: workers: found twice; the first is at routes/b.yaml:1",
    ]


def test_a_file_that_includes_itself_is_an_error() -> None:
    write(gateway=MAIN, routes__a="include: b.yaml\n", routes__b="include: ../gateway.yaml\n")
    assert errors() == [
        "gateway.yaml:1:10: include: found routes/b.yaml twice; routes/a.yaml:1 includes it already",
        "routes/b.yaml:1:10: include: the file includes itself: gateway.yaml → routes/a.yaml → routes/b.yaml → "
        "gateway.yaml",
    ]
    write(gateway=MAIN.replace("routes/*", "*"))
    assert errors() == ["gateway.yaml:1:10: include: the file includes itself: gateway.yaml → gateway.yaml"]


def test_a_link_to_a_file_that_is_included_already_is_an_error() -> None:
    write(gateway=MAIN, routes__a="routes: [{path: /a, service: user}]\n")
    os.symlink("a.yaml", "routes/b.yaml")
    assert errors() == ["gateway.yaml:1:10: include: found routes/b.yaml twice; gateway.yaml:1 includes it already"]


def test_files_that_cannot_be_used_are_reported_together() -> None:
    write(
        gateway=MAIN.replace('"routes/*.yaml"', "[a.yaml, b.yaml, c.yaml, d.yaml, e.yaml, f.yaml, '${file:a}']"),
        b="routes: [\n",
        c="- 1\n",
        f="",
    )
    os.mkfifo("a.yaml")  # which no reader may wait for
    Path("d.yaml").write_bytes(b"routes:\n  - \xff\n")
    found = errors()
    assert found[:3] == [
        "gateway.yaml:1:11: include: the file a.yaml cannot be read: it is not a regular file",
        "gateway.yaml:1:43: include: the file e.yaml cannot be read: no such file or directory",
        "gateway.yaml:1:59: include: a path has no secrets; allowed is ${VAR}",
    ]
    assert [error.partition(": ")[0] for error in found[3:]] == ["b.yaml:2:1", "c.yaml:1:1", "d.yaml:2:5", "f.yaml:1:1"]


def test_a_pattern_may_match_nothing() -> None:
    write(gateway=MAIN)
    assert [route.path for route in loaded().routes] == ["/main"]


def test_the_number_and_the_size_of_included_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    write(gateway=MAIN, **{f"routes__{number}": "# nothing\n{}\n" for number in range(4)})
    monkeypatch.setattr(module, "MAX_FILES", 3)
    assert errors() == ["gateway.yaml:1:10: include: found more than 3 files; include fewer"]
    monkeypatch.setattr(module, "MAX_FILES", 256)
    monkeypatch.setattr(module, "MAX_TOTAL", 30)
    assert errors() == ["gateway.yaml:1:10: include: the files have more than 30 bytes together"]
    Path("routes/0.yaml").write_bytes(b"#" * (2**20 + 1))
    monkeypatch.setattr(module, "MAX_TOTAL", included.MAX_FILES * 2**20)
    assert errors() == ["routes/0.yaml:1:1: larger than 1048576 bytes"]


def test_the_content_of_included_files_is_compared_for_changes() -> None:
    write(gateway=MAIN, routes__a="routes: [{path: /a, service: user}]\n")
    read = loaded().included
    assert read.is_current() and read.paths() == ["routes/a.yaml"]
    write(routes__b="{}\n")
    assert not read.is_current() and read.paths() == ["routes/a.yaml", "routes/b.yaml"]
    Path("routes/b.yaml").unlink()
    assert read.is_current()
    write(routes__a="routes: [{path: /b, service: user}]\n")
    assert not read.is_current()
    Path("routes/a.yaml").unlink()
    assert not read.is_current()
