"""Pictures of the dashboard in a real browser, for people to judge; and that nothing overflows or is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests import requirements
from tests.supervisor.dashboard.conftest import Opened, assert_fits
from tests.supervisor.dashboard.system import Served, System, counted

pytestmark = [requirements.needs("chromium"), pytest.mark.slow, pytest.mark.long]

Serve = Callable[..., Served]
Take = Callable[[Page, str], None]


def busy(instances: int | None = None) -> System:
    """A shop in which one instance is down and some requests to ``user`` fail."""
    system = System(instances=instances)
    system.local("user")
    return system


@pytest.fixture(scope="module")
def troubled() -> Iterator[Served]:
    """A busy shop with all kinds of trouble, for pages that change nothing."""
    system = busy()
    served = Served(system)
    served.record("start", "user-1 is up", service="user", instance="user-1")
    served.record("reload", "the configuration was applied")
    served.seconds(560)
    system.failing = {"user": 0.06}
    system.states["user"]["user-2"].update(
        state="waiting", problem="ended with exit code 1; next start in 2.0 s", restarts=3
    )
    system.states["product"]["product-2"].update(state="draining")
    served.record("end", "user-2 ended with exit code 1 after 12.4 s", service="user", instance="user-2")
    served.record("drain", "product-2 receives no new requests", service="product", instance="product-2")
    served.seconds(40)
    yield served
    served.close()


def loaded(page: Page) -> None:
    expect(page.locator("#live-text")).to_have_text("Live")
    expect(page.locator(".tile").first).to_be_visible()
    page.wait_for_function("document.querySelectorAll('.plot canvas').length === 4")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 1360), ("light", 360), ("dark", 360)])
def test_light_dark_and_narrow(open_page: Opened, troubled: Served, picture: Take, scheme: str, width: int) -> None:
    page = open_page(troubled.url, color_scheme=scheme, viewport={"width": width, "height": 900})
    loaded(page)
    troubled.seconds()
    page.locator("#failure-list summary").first.click()
    page.get_by_role("button", name="Explain the request").first.click()
    expect(page.locator("#failure-list .facts")).to_contain_text("/user/{user_id}")
    assert_fits(page)
    picture(page, f"{scheme}-{width}")


def test_a_hundred_instances(open_page: Opened, serve: Serve, picture: Take) -> None:
    system = busy(100)
    served = serve(system)
    served.seconds(120)
    for name in ("user-7", "user-61"):
        system.states["user"][name].update(state="waiting", problem="ended with exit code 1")
    served.seconds(2)
    for width in (1360, 360):
        page = open_page(served.url, viewport={"width": width, "height": 900})
        loaded(page)
        assert page.locator("[aria-label='Instances of user'] .tile").count() == 100
        assert page.locator(".tile[data-health='bad']").count() == 2
        assert_fits(page)
        picture(page, f"hundred-{width}")


def test_nothing_runs_yet(open_page: Opened, serve: Serve, picture: Take) -> None:
    system = System()
    system.is_idle = True
    states, system.states = system.states, {}
    served = serve(system)
    page = open_page(served.url)
    expect(page.locator("#live-text")).to_have_text("Live")
    expect(page.locator("#no-services")).to_be_visible()
    expect(page.locator("#no-routes")).to_be_visible()
    assert_fits(page)
    picture(page, "empty")
    system.states = states
    for instances in states.values():
        for state in instances.values():
            state["state"] = "starting"
    served.seconds(3)
    expect(page.locator(".tile").first).to_contain_text("starting")
    expect(page.locator(".card .big").first).to_have_text("0")
    expect(page.locator("#no-services")).to_be_hidden()
    picture(page, "starting")


ROLLOUTS = """
services:
  monolith: {targets: ["http://127.0.0.1:5001"]}
  users: {targets: ["http://127.0.0.1:5002"]}
  products: {targets: ["http://127.0.0.1:5003"]}
  prices: {targets: ["http://127.0.0.1:5004"]}
routes:
  - path: "/user/{user_id}"
    service: monolith
    split: {weights: {users: 0}}
    rollout: &plan {steps: [1%, 5%, 25%, 50%, 100%], at_least: 10m, requests: 50}
  - {path: "/product/{product_id}", service: monolith, split: {weights: {products: 0}}, rollout: *plan}
  - {path: "/price/{product_id}", service: monolith, split: {weights: {prices: 0}}, rollout: *plan}
"""


def test_rollouts(open_page: Opened, serve: Serve, picture: Take, tmp_path: Path) -> None:
    system = System(ROLLOUTS, folder=tmp_path)
    served = serve(system)
    served.do(system.rollouts.load())
    for route, action in [
        ("/user/{user_id}", "start"),
        ("/user/{user_id}", "skip"),
        ("/user/{user_id}", "skip"),
        ("/product/{product_id}", "start"),
    ]:
        served.do(system.rollouts.change({"route": route, "action": action}, "admin"))
    system.split_counts = {
        "/user/{user_id}": {"monolith": counted(8410, 12), "users": counted(31)},
        "/product/{product_id}": {"monolith": counted(9000, 9), "products": counted(80, 40)},
    }
    served.do(system.rollouts.tick())
    for width, scheme in ((1360, "light"), (1360, "dark"), (360, "light")):
        page = open_page(served.url, viewport={"width": width, "height": 900}, color_scheme=scheme)
        expect(page.locator(".rollout[data-status='rolled_back']")).to_be_visible()
        expect(page.locator(".rollout[data-status='running'] .now")).to_contain_text("25 %")
        assert_fits(page)
        picture(page, f"rollouts-{scheme}-{width}")
