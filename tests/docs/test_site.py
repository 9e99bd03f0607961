"""The script that builds the site: places of pages, links, and what makes a build fail."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from tests.machinery.test_scripts import script

site = script("site")
CONFIG = """
[project]
site_name = "a"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = []
[project.theme]
font = false
"""
INDEX = """# Docs

## First part

- [readme](../README.md), [file](../examples/a.yaml), `[b](../B.md)`

A group:

- [other
  page](a/b.md#part): about it
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two pages, a picture, and a file that a page links to."""
    for name, text in {
        "zensical.toml": CONFIG,
        "README.md": "# Read me\n\n[docs](docs/index.md#first-part) ![x](docs/images/x.svg)\n",
        "docs/index.md": INDEX,
        "docs/a/b.md": "# Other\n\n## Part\n",
        "docs/images/x.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "examples/a.yaml": "a: 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("docs/how-to/x.md", "how-to/x.md"),
        ("README.md", "project/readme.md"),
        ("examples/shop/README.md", "tutorial/shop.md"),
        ("examples/shop/gateway.yaml", "files/examples/shop/gateway.yaml"),
    ],
)
def test_the_place_of_a_file(file: str, place: str) -> None:
    assert site.place(PurePosixPath(file)) == PurePosixPath(place)


def test_links_lead_to_the_places_and_code_stays(repository: Path) -> None:
    site.assemble(repository, repository / "build/pages")
    text = (repository / "build/pages/index.md").read_text()
    assert "[readme](project/readme.md), [file](files/examples/a.yaml), `[b](../B.md)`" in text
    text = (repository / "build/pages/project/readme.md").read_text()
    assert "[docs](../index.md#first-part) ![x](../images/x.svg)" in text
    assert (repository / "build/pages/files/examples/a.yaml").read_text() == "a: 1\n"


def test_the_navigation_follows_the_lists_of_the_index(repository: Path) -> None:
    pages = site.navigation(repository)
    assert pages == [
        ("Home", "", "Home", "index.md"),
        ("First part", "", "readme", "project/readme.md"),
        ("First part", "A group", "other page", "a/b.md"),
    ]
    assert tomllib.loads(site.as_toml(pages))["nav"] == [
        {"Home": "index.md"},
        {"First part": [{"readme": "project/readme.md"}, {"A group": [{"other page": "a/b.md"}]}]},
    ]


def test_the_site_is_built(repository: Path) -> None:
    assert site.main([], repository) == 0
    assert "Read me" in (repository / "build/site/project/readme.html").read_text()
    assert (repository / "build/site/search.json").exists()


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](../README.md#nowhere)", "[x](../../outside.md)"])
def test_a_broken_link_fails_the_build(repository: Path, link: str) -> None:
    (repository / "docs/index.md").write_text(f"# Docs\n\n{link}\n")
    assert site.main([], repository) != 0


def test_a_page_outside_of_the_navigation_and_a_file_of_another_host_are_faults(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "docs/lonely.md").write_text("# Lonely\n\n<img src='https://example.com/a.png'>\n")
    site.assemble(repository, repository / "build/pages")
    built = repository / "build/site"
    built.mkdir()
    shutil.copy(repository / "docs/lonely.md", built / "lonely.html")
    (built / "a.css").write_text("@import 'https://example.com/b.css'; a {background: url(//example.com/c.png)}")
    named = {page for *_, page in site.navigation(repository)}
    assert sorted(site.faults(repository / "build/pages", built, named)) == [
        "a.css: loads //example.com/c.png",
        "a.css: loads https://example.com/b.css",
        "docs/index.md: no list has a link to lonely.md",
        "lonely.html: loads https://example.com/a.png",
    ]
