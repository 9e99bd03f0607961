from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from passerelle.config.models.admin import AdminPort
from tests import requirements
from tests.supervisor.dashboard.system import Served, System

PICTURES = Path(__file__).parents[3] / "build" / "dashboard"

expect.set_options(timeout=15_000)

Opened = Callable[..., Page]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium of the distribution; ``--no-sandbox`` because it refuses to start as root otherwise."""
    path = requirements.program("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def is_violation(text: str) -> bool:
    """Whether a line of the console reports that the page violates its own policy; another page may try to frame it."""
    return "Content Security Policy" in text and "frame-ancestors" not in text


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opened]:
    """Open pages whose scripts must not fail and whose policy must not be violated."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if is_violation(line.text) else None)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def assert_fits(page: Page) -> None:
    """The page does not scroll sideways."""
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def serve_(system: System | None = None, settings: AdminPort | None = None, host: str = "127.0.0.1") -> Served:
        started.append(Served(system or System(), settings, host))
        return started[-1]

    yield serve_
    for each in started:
        each.close()


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Write pictures of the whole page, and of its first screen, into the folder ``build``."""

    def take(page: Page, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.evaluate("window.scrollTo({top: 0, behavior: 'instant'})")
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
        if page.viewport_size == {"width": 1360, "height": 900}:
            page.screenshot(path=PICTURES / f"{name}-top.png")

    return take
