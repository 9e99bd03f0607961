"""What can be loaded as a plugin, and what is reported otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from passerelle.plugin_host.loading import PluginLoadError, add_folder, load

HERE = "tests.plugin_host.samples"

MODES = [
    ("guard", "by_header", {}, "thread"),
    ("guard", "by_header_at_once", {}, "inline"),
    ("guard", "by_header_later", {}, "task"),
    ("guard", "Counted", {"key": "a"}, "thread"),
    ("guard", "Loose", {}, "inline"),
    ("guard", "Plain", {}, "thread"),
    ("response", "tag", {}, "thread"),
    ("response", "tag_later", {}, "task"),
]


@pytest.mark.parametrize(("kind", "name", "settings", "mode"), MODES)
def test_functions_and_classes_are_loaded(kind: str, name: str, settings: dict[str, Any], mode: str) -> None:
    assert load(kind, f"{HERE}:{name}", settings, ".").mode == mode


ERRORS = [
    ("guard", f"{HERE}:absent", {}, "guard", f"module '{HERE}' has no attribute 'absent'"),
    ("guard", "tests.plugin_host.absent:f", {}, "guard", "there is no module 'tests.plugin_host.absent' in "),
    ("guard", f"{HERE}:NUMBER", {}, "guard", "is not a plugin: a int cannot be called"),
    ("guard", f"{HERE}:two", {}, "guard", "cannot be called with (request)"),
    ("guard", f"{HERE}:tag", {}, "guard", "cannot be called with (request)"),
    ("response", f"{HERE}:by_header", {}, "response", "cannot be called with (request, response)"),
    ("guard", f"{HERE}:NotCallable", {}, "guard", "has no method __call__"),
    ("guard", f"{HERE}:by_header", {"a": 1}, "settings", "takes no settings: a class does, a function does not"),
    ("guard", f"{HERE}:Plain", {"a": 1}, "settings", "Plain takes no settings"),
    ("guard", f"{HERE}:Counted", {}, "settings.key", "field required"),
    ("guard", f"{HERE}:Counted", {"key": "a", "b": 1}, "settings.b", "extra inputs are not permitted"),
]


@pytest.mark.parametrize(("kind", "reference", "settings", "key", "text"), ERRORS)
def test_what_cannot_be_loaded_is_reported(
    kind: str, reference: str, settings: dict[str, Any], key: str, text: str
) -> None:
    with pytest.raises(PluginLoadError) as caught:
        load(kind, reference, settings, ".")
    assert ".".join(map(str, (caught.value.key, *caught.value.loc))) == key
    assert text in str(caught.value)


def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return f"{name}:check"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    add_folder(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def check(request:\n", "broken_1.py:1: '(' was never closed"),
        ("import sys\nsys.exit(3)\n", "cannot import broken_1: SystemExit: 3 ("),
        ("import absent_module\n", "cannot import broken_1: ModuleNotFoundError: No module named 'absent_module' ("),
        ("\n\n1 / 0\n", "broken_1.py:3)"),
    ],
)
def test_what_a_module_raises_is_reported_with_its_line(folder: Path, text: str, reason: str) -> None:
    reference = write(folder, "broken_1", text)
    with pytest.raises(PluginLoadError) as caught:
        load("guard", reference, {}, str(folder))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_folder_of_the_file_is_last_on_the_path(folder: Path) -> None:
    write(folder, "json", "def check(request): pass\n")
    write(folder, "own_plugin_of_the_file", "def check(request): pass\n")
    assert sys.path[-1] == str(folder)
    assert load("guard", "own_plugin_of_the_file:check", {}, str(folder)).mode == "thread"
    with pytest.raises(
        PluginLoadError, match=rf"has no attribute 'check'; 'json' was loaded from .*, and hides {folder}"
    ):
        load("guard", "json:check", {}, str(folder))
