"""The tables of the reference pages are those that the code gives."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from passerelle.config.models import config as models
from passerelle.config.models.base import Model
from tests.machinery.test_scripts import ROOT, script

tables = script("reference_tables")
MODELS = {
    name: value
    for name, value in vars(models).items()
    if isinstance(value, type) and issubclass(value, Model) and value is not Model and name[0] != "_"
}
REFERENCE = (ROOT / "docs/reference/configuration.md").read_text("utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_every_table_is_what_the_code_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert (tables.main([]), capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_has_every_key_with_what_it_takes_and_its_default(name: str) -> None:
    found = re.search(rf"<!-- table: keys of {name} -->\n\n(.*?)\n\n<!-- end of table -->", REFERENCE, re.DOTALL)
    assert found is not None
    lines = found[1].splitlines()[2:]
    assert [re.findall(r"^\| `(\w+)` \| \S", line) for line in lines] == [[key] for key in MODELS[name].model_fields]
    for line, field in zip(lines, MODELS[name].model_fields.values(), strict=True):
        assert line.endswith(f"| {field.description} |")
        assert ("| required |" in line) == field.is_required()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("Config.listen", "`host:port`, or list of [listeners](#listeners)"),
        ("Config.workers", "number, 1 to 256"),
        ("Config.limits", "[mapping](#limits)"),
        ("Config.trusted_proxies", "list of address ranges"),
        ("Service.tls", "[mapping](#tls-of-a-service)"),
        ("Service.interface", "`wsgi`, `asgi`"),
        ("Service.env", "mapping of names to text"),
        ("Retries.on_status", "list of numbers, 500 to 599"),
        ("Retries.methods", "list of methods"),
        ("Jwt.audience", "text or a list"),
        ("Route.timeout", "duration"),
        ("Route.tell_deadline", "`true` or `false`"),
        ("Sticky.cookie", "name of a cookie"),
    ],
)
def test_what_a_key_takes_comes_from_its_type(key: str, words: str) -> None:
    model, _, name = key.partition(".")
    assert tables.takes(MODELS[model], name) == words


def test_a_type_without_words_is_an_error() -> None:
    class Odd(Model):
        shape: complex

    with pytest.raises(ValueError, match="shape: annotate its type"):
        tables.takes(Odd, "shape")


def test_a_changed_table_is_reported_and_written_again(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "docs/reference/metrics.md"
    right = page.read_text("utf-8")
    page.write_text(right.replace("| counter |", "| gauge |", 1))
    assert tables.main([], copy) == 1
    assert capsys.readouterr().out == (
        "docs/reference/metrics.md: the table 'metrics' differs from the code; run make tables\n"
    )
    assert tables.main(["--write"], copy) == 0
    assert page.read_text("utf-8") == right


def test_a_table_that_no_page_has_is_reported(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copy / "docs/reference/configuration.md"
    table = re.compile(r"<!-- table: keys of Hedge -->.*?<!-- end of table -->", re.DOTALL)
    page.write_text(table.sub("", page.read_text("utf-8")))
    assert tables.main([], copy) == 1
    assert capsys.readouterr().out == "no page has the table 'keys of Hedge'\n"
