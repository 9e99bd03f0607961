"""The guides that are run in a clone: each command, each file, each output that they show."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, Shell, blocks

PAGES = ["tutorial/monolith-to-services", "how-to/run-book", "explanation/founding-design"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.needs("curl")
@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_guide_does_what_the_page_shows(name: str, clone: Shell) -> None:
    commands = 0
    for block in blocks(ROOT / f"docs/{name}.md"):
        if block.name == "file" or block.is_run:
            commands += clone.run(block)
    assert commands > 5
    if clone.servers:
        assert clone.stop() == 0
