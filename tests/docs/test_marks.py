"""Every page with commands is run by a test, or stands here with the reason why not."""

from __future__ import annotations

import re

import pytest

from tests.docs import test_guides, test_starts
from tests.docs.pages import ROOT, blocks

RUN = {f"docs/tutorial/{name}.md" for name in test_starts.PAGES} | {f"docs/{name}.md" for name in test_guides.PAGES}

SAME = "the starts, the guides and tests/examples prepare, start and request the shop in the same way"
EXCERPTS = "its commands are excerpts: each is for the reader's own file, machine or data"
NOT_RUN = {
    "CONTRIBUTING.md": "its targets are those that run the tests",
    "README.md": SAME,
    "docs/benchmarks.md": "its commands take minutes and a quiet machine; tests/benchmarks has their parts",
    "docs/explanation/security-model.md": "its commands attack for minutes; tests/attack has their parts",
    "docs/how-to/api-keys.md": EXCERPTS,
    "docs/how-to/cache-an-endpoint.md": EXCERPTS,
    "docs/how-to/automatic-https.md": "its commands need names in the public DNS; tests/acme has them",
    "docs/how-to/back-up.md": "tests/cli/test_backup.py runs its commands",
    "docs/how-to/compare-a-new-service.md": EXCERPTS,
    "docs/how-to/split-traffic.md": EXCERPTS,
    "docs/how-to/compose-services.md": EXCERPTS,
    "docs/how-to/roll-out-a-new-service.md": EXCERPTS,
    "docs/how-to/containers.md": "its commands need an engine; tests/export and tests/supervisor run what is in them",
    "docs/how-to/dashboard.md": EXCERPTS,
    "docs/how-to/deploy-without-downtime.md": EXCERPTS,
    "docs/how-to/export.md": EXCERPTS,
    "docs/how-to/https.md": EXCERPTS,
    "docs/how-to/install.md": "the starts run the same commands",
    "docs/how-to/kubernetes.md": "its commands need a cluster; tests/export validates the manifests",
    "docs/how-to/leave-a-monolith.md": EXCERPTS,
    "docs/how-to/limit-a-client.md": EXCERPTS,
    "docs/how-to/log-and-measure.md": EXCERPTS,
    "docs/how-to/postgresql-and-redis.md": "tests/examples/test_how_to.py runs its commands",
    "docs/how-to/scale-a-service.md": EXCERPTS,
    "docs/how-to/serve-files-and-redirects.md": EXCERPTS,
    "docs/how-to/share-state-in-redis.md": EXCERPTS,
    "examples/shop/README.md": SAME,
}

MARKED = {"docs/how-to/size-a-system.md"}  # pages with commands that are all marked


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def with_commands() -> set[str]:
    return {page for page in pages() if any(block.is_run for block in blocks(ROOT / page))}


def test_every_page_with_commands_is_run_or_has_a_reason() -> None:
    assert not {block for page in MARKED for block in blocks(ROOT / page) if block.is_run}
    reference = {page for page in with_commands() if page.startswith("docs/reference/")}
    found = with_commands() - reference
    assert not found - RUN - NOT_RUN.keys(), "run these pages in test_guides.py, or give the reason in NOT_RUN"
    assert not (RUN | NOT_RUN.keys()) - found, "these pages have no commands"
    assert not RUN & NOT_RUN.keys()


@pytest.mark.parametrize("page", pages())
def test_the_name_of_a_file_stands_in_the_text_before_it(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for before, name in re.findall(r"(?:^```[ ]*$|\A)((?:(?!^```).)*)^<!-- file: ([^\n]*) -->$", text, re.M | re.S):
        assert f"`{name}`" in before, name


@pytest.mark.parametrize("page", sorted(RUN | MARKED))
def test_what_a_run_page_does_not_run_has_a_reason(page: str) -> None:
    assert all(len(block.value) > 20 for block in blocks(ROOT / page) if block.name == "not run")
