"""The dashboard in a real browser: what it shows, what its buttons do, who may use it, and that it does not grow."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from passerelle.config.models.addresses import Address
from passerelle.config.models.admin import AdminPort
from passerelle.crossing.compare_json import Difference, Kind
from passerelle.upstream.shadow import ShadowResults
from tests import requirements
from tests.supervisor.dashboard.conftest import Opened, assert_fits
from tests.supervisor.dashboard.system import Served, System, counted
from tests.supervisor.test_reconciler import HEAD, SERVE
from tests.supervisor.up import Up, command

pytestmark = [requirements.needs("chromium"), pytest.mark.slow]

Serve = Callable[..., Served]
TOKEN = "a-token-of-32-visible-characters"


def tile(page: Page, name: str):
    return page.locator(f".tile[data-instance='{name}']")


def live(page: Page) -> None:
    expect(page.locator("#live-text")).to_have_text("Live")


@contextmanager
def load(running: Up) -> Iterator[None]:
    """Send requests, one after the other, until the end of the block."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.01):
            try:
                running.get("/x")
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(15)


RUN = "  s: {run: [python, -S, serve.py, '{port}'], instances: 3, health: {path: /}}\n"


def test_the_tile_of_an_instance_that_is_killed_turns_within_two_seconds(open_page: Opened, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "gateway.yaml").write_text(f"{HEAD}services:\n{RUN}routes: [{{path: '/{{rest*}}', service: s}}]\n")
    with command(tmp_path, "up") as running:
        running.listening()
        page = open_page(f"http://127.0.0.1:{running.admin}/")
        live(page)
        with load(running):
            expect(tile(page, "s-2")).to_have_attribute("data-health", "up")
            expect(page.locator("#route-table tbody tr")).to_have_count(1)
            pid = next(each["pid"] for each in running.instances("s") if each["name"] == "s-2")
            os.kill(pid, signal.SIGKILL)
            expect(tile(page, "s-2")).to_have_attribute("data-health", "bad", timeout=2000)
            expect(page.locator("#event-list")).to_contain_text("s-2 ")
            # It runs again, and the tile counts the restart.
            expect(tile(page, "s-2")).to_have_attribute("data-health", "up", timeout=20_000)
            expect(tile(page, "s-2").locator("dd").nth(3)).to_have_text("1")
        page.close()
        assert running.stop() == 0


@pytest.mark.long
def test_a_drain_is_confirmed_and_can_be_undone(open_page: Opened, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "services.yaml").write_text(f"{HEAD}services:\n{RUN}routes: [{{path: '/{{rest*}}', service: s}}]\n")
    with command(tmp_path, "up", "services.yaml") as services:
        services.listening()
        targets = ", ".join(f"'http://{each['address']}'" for each in services.instances("s"))
        (tmp_path / "gateway.yaml").write_text(
            f"{HEAD}services: {{s: {{targets: [{targets}], health: {{path: /}}}}}}\n"
            "routes: [{path: '/{rest*}', service: s}]\n"
        )
        with command(tmp_path, "up", "gateway.yaml") as running:
            running.listening()
            page = open_page(f"http://127.0.0.1:{running.admin}/")
            live(page)
            first = page.locator(".tile").first
            expect(first).to_have_attribute("data-state", "up")
            name = first.get_attribute("data-instance")

            first.get_by_role("button", name="Drain").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text(f"Drain {name}?")
            dialog.get_by_role("button", name="Cancel").click()
            expect(dialog).to_be_hidden()
            assert [each["state"] for each in running.instances("s")] == ["up"] * 3

            first.get_by_role("button", name="Drain").click()
            page.keyboard.press("Enter")
            expect(first).to_have_attribute("data-state", "draining")
            expect(page.locator("#toasts")).to_contain_text("drained, no requests in flight")
            page.get_by_role("button", name="Undo").click()
            expect(first).to_have_attribute("data-state", "up")
            expect(page.locator("#event-list")).to_contain_text("drain")
            page.close()


def test_every_change_is_confirmed_first(open_page: Opened, serve: Serve) -> None:
    system = System()
    system.local("user")
    served = serve(system)
    served.seconds(2)
    page = open_page(served.url)
    live(page)

    def change(button: str, confirm: str, within: str = "body") -> None:
        page.locator(within).get_by_role("button", name=button, exact=True).click()
        assert system.changes == before
        page.get_by_role("dialog").get_by_role("button", name=confirm, exact=True).click()
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.wait_for_function("() => !document.querySelector('#toasts').textContent.includes('…')")

    before: list[tuple[str, dict[str, str]]] = []
    user = "article[aria-label='Service user']"
    page.locator(user).get_by_role("button", name="Scale").click()
    page.get_by_label("Instances", exact=True).fill("5")
    page.get_by_role("dialog").get_by_role("button", name="Scale").click()
    expect(page.locator("#toasts")).to_contain_text("user: scaled")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#toasts")).not_to_contain_text("…")
    before = [("scale", {"service": "user", "instances": number}) for number in ("5", "3")]
    assert system.changes == before

    change("Restart", "Restart", user)
    before = [*before, ("restart", {"service": "user"})]
    assert system.changes == before
    change("Reload", "Reload")
    before = [*before, ("reload", {})]
    assert system.changes == before

    page.get_by_role("button", name="Purge cache").click()
    page.get_by_label("Path or tag").fill("/user/42")
    page.get_by_role("dialog").get_by_role("button", name="Purge").click()
    expect(page.locator("#toasts")).to_contain_text("purged 12 stored responses")
    assert system.changes == [*before, ("purge", {"path": "/user/42"})]

    system.refusal = "the gateway is stopping and accepts no changes"
    page.get_by_role("button", name="Reload", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Reload").click()
    expect(page.locator(".toast.is-problem")).to_contain_text("accepts no changes")


SPLIT = """
services:
  monolith: {targets: ["http://127.0.0.1:5001"]}
  users: {targets: ["http://127.0.0.1:5002"]}
routes:
  - {path: "/user/{user_id}", service: monolith, split: {weights: {users: 10}}}
"""


def test_a_split_is_shown_and_changed_and_can_be_undone(open_page: Opened, serve: Serve) -> None:
    system = System(SPLIT)
    page = open_page(serve(system).url)
    live(page)
    rows = page.locator("#split-table tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("/user/{user_id}monolith99")
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_label("users", exact=True).fill("50")
    page.get_by_role("dialog").get_by_role("button", name="Change").click()
    expect(page.locator("#toasts")).to_contain_text("/user/{user_id}: monolith=950 users=50")
    expect(rows.nth(1)).to_contain_text("users5")
    assert system.splits.weights("/user/{user_id}") == {"monolith": 950, "users": 50}
    page.get_by_role("button", name="Undo").click()
    expect(rows.nth(1)).to_contain_text("users1")
    assert system.splits.weights("/user/{user_id}") == {"monolith": 990, "users": 10}


ROLLOUT = """
services:
  monolith: {targets: ["http://127.0.0.1:5001"]}
  users: {targets: ["http://127.0.0.1:5002"]}
routes:
  - path: "/user/{user_id}"
    service: monolith
    split: {weights: {users: 0}}
    rollout: {steps: [1%, 25%, 100%], at_least: 10m, requests: 50}
"""


@pytest.mark.long
def test_a_rollout_is_shown_and_started_paused_resumed_skipped_and_aborted(
    open_page: Opened, serve: Serve, tmp_path: Path
) -> None:
    system = System(ROLLOUT, folder=tmp_path)
    served = serve(system)
    served.do(system.rollouts.load())
    page = open_page(served.url)
    live(page)
    shown = page.locator("[data-rollout='/user/{user_id}']")
    steps, buttons = shown.locator(".steps li"), shown.locator(".tools button:visible")
    expect(shown).to_contain_text("not started")
    expect(buttons).to_have_text(["Start"])

    def press(action: str, *left: str) -> None:
        shown.get_by_role("button", name=action, exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(buttons).to_have_text(list(left))

    press("Start", "Pause", "Skip", "Abort")
    expect(shown).to_contain_text("monolith → users, 1 % of the users on users")
    expect(shown).to_contain_text("waits for 50 more requests")
    expect(steps.and_(page.locator(".now"))).to_contain_text("1 %")

    system.split_counts["/user/{user_id}"] = {"monolith": counted(4950, 7), "users": counted(49)}
    served.do(system.rollouts.tick())
    expect(shown).to_contain_text("waits for 1 more request")
    expect(shown.locator(".facts")).to_contain_text("monolith4,950 requests, 7 failed, 0 slowusers49 requests")

    press("Pause", "Resume", "Skip", "Abort")
    assert system.rollouts.status()["/user/{user_id}"]["status"] == "paused"
    page.get_by_role("button", name="Undo").click()
    expect(buttons).to_have_text(["Pause", "Skip", "Abort"])
    press("Skip", "Pause", "Skip", "Abort")
    expect(steps.and_(page.locator(".now"))).to_contain_text("25 %")
    expect(page.locator("#split-table tbody tr").nth(1)).to_contain_text("users25")

    system.split_counts["/user/{user_id}"] = {"monolith": counted(9000, 7), "users": counted(800, 400)}
    served.do(system.rollouts.tick())
    expect(shown).to_have_attribute("data-status", "rolled_back")
    expect(shown.locator("p.is-bad")).to_contain_text("requests fail")
    expect(shown).to_contain_text("0 % of the users on users")
    press("Start", "Pause", "Skip", "Abort")
    press("Abort", "Start")
    expect(shown).to_contain_text("aborted by")
    assert system.splits.weights("/user/{user_id}") == {"monolith": 1000, "users": 0}


def test_a_shadow_is_shown_with_what_differs(open_page: Opened, serve: Serve) -> None:
    system = System()
    results = system.shadow_results["/user/<b>"] = ShadowResults(bytes(16))
    for number in range(40):
        results.sent += 1
        results.old_latency.add(0.010)
        results.new_latency.add(0.030)
        results.ledger.add([Difference(("price",), Kind.TYPE, 1.5, "1.50")] if number < 3 else [])
    results.failed["timeout"] += 2
    page = open_page(serve(system).url)
    live(page)
    row = page.locator("#shadow-table tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("/user/<b>4032")
    expect(row).to_contain_text("/price type ×3")
    expect(row.locator(".is-bad")).to_have_count(2)


@pytest.mark.long
def test_without_a_shadow_there_is_no_table_of_shadows(open_page: Opened, serve: Serve) -> None:
    page = open_page(serve().url)
    live(page)
    expect(page.locator("#shadows")).to_be_hidden()


def test_with_a_token_the_page_has_buttons_only_after_the_login(open_page: Opened, serve: Serve) -> None:
    served = serve(settings=AdminPort(token=TOKEN, prometheus="http://prometheus.internal:9090"))
    served.seconds(2)
    page = open_page(served.url)
    live(page)
    expect(tile(page, "user-1")).to_be_visible()
    assert page.get_by_role("button", name="Drain").count() == 0
    expect(page.locator("#reload")).to_be_hidden()
    expect(page.locator("#prometheus")).to_have_attribute("href", "http://prometheus.internal:9090")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(page.locator("#dialog-problem")).to_have_text("This is not the token.")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(tile(page, "user-1").get_by_role("button", name="Drain")).to_be_visible()
    expect(page.locator("#login")).to_be_hidden()
    tile(page, "user-1").get_by_role("button", name="Drain").click()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("instances/change: done")
    assert [name for name, _ in served.system.changes] == ["instances/change"]


@pytest.mark.long
def test_beyond_loopback_the_page_shows_a_login_and_nothing_else(open_page: Opened, serve: Serve) -> None:
    settings = AdminPort(listen=Address(host="0.0.0.0", port=9900), token=TOKEN)
    served = serve(settings=settings, host="0.0.0.0")
    served.seconds(2)
    page = open_page(served.url)
    expect(page.get_by_role("dialog")).to_contain_text("Sign in")
    assert page.locator(".tile").count() == 0
    assert "user" not in (page.locator("main").text_content() or "").lower().replace("user's", "")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    live(page)
    expect(tile(page, "user-1")).to_be_visible()


FOREIGN = """async ([url, headers]) => {
  const results = [];
  for (const [path, method] of [['live', 'GET'], ['status', 'GET'], ['history', 'GET'], ['failures', 'GET'],
      ['explain?url=/', 'GET'], ['dashboard/settings', 'GET'], ['', 'GET'], ['reload', 'POST'], ['scale', 'POST']]) {
    try {
      const response = await fetch(url + path, {method, headers: method === 'POST' ? headers : {}});
      results.push([path, response.status, await response.text()]);
    } catch (error) { results.push([path, null, error.message]); }
  }
  return results;
}"""


def test_pages_of_other_origins_neither_read_nor_change_anything(open_page: Opened, serve: Serve) -> None:
    served, other = serve(), serve()
    served.seconds(2)
    # Another port is another origin. The policy of the page itself is taken away: an attacker's page has none.
    page = open_page("about:blank", bypass_csp=True)
    page.route("http://attacker.test/**", lambda route: route.fulfill(content_type="text/html", body="<p>attack"))
    for origin in ("http://attacker.test/", other.url):
        page.goto(origin)
        for headers in ({}, {"Passerelle-Admin": "1"}):
            for path, status, text in page.evaluate(FOREIGN, [served.url, headers]):
                assert status is None, (origin, path, text)
        # Neither in a frame, nor by a form, which sends no header field of its own.
        page.evaluate(
            "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f) }", served.url
        )
        page.evaluate(
            "url => { const f = document.createElement('form'); f.method = 'post'; f.action = url; f.target = 'hidden';"
            " document.body.append(f); f.submit() }",
            served.url + "reload",
        )
        page.wait_for_timeout(300)
        assert all("user-1" not in frame.content() for frame in page.frames)
    assert served.system.changes == []


@pytest.mark.long
def test_a_name_that_resolves_to_the_admin_port_reads_and_changes_nothing(open_page: Opened, serve: Serve) -> None:
    served = serve()
    served.seconds(2)
    page = open_page("about:blank", bypass_csp=True)
    # DNS rebinding: the browser believes that the admin port is attacker.test, and sends its name as Host.
    rebound = f"http://attacker.test:{served.port}/"
    page.route(f"{rebound}**", lambda route: route.fulfill(response=route.fetch(
        url=route.request.url.replace("attacker.test", "127.0.0.1"),
        headers={**route.request.headers, "host": f"attacker.test:{served.port}"},
    )))  # fmt: skip
    response = page.goto(rebound)
    assert response is not None and response.status == 421
    for path, status, _ in page.evaluate(FOREIGN, [rebound, {"Passerelle-Admin": "1"}]):
        assert status in (403, 421), path
    assert served.system.changes == []


HOSTILE = "<img src=x onerror=window.hacked=1>"


def test_the_verdict_is_at_the_top(open_page: Opened, serve: Serve) -> None:
    served = serve()
    served.seconds(15)
    page = open_page(served.url)
    live(page)
    verdict = page.request.get(f"{served.url}diagnose").json()["verdicts"][0]
    expect(page.locator("#verdict")).to_contain_text(verdict["text"])
    expect(page.locator("#verdict")).to_contain_text(verdict["next_step"])


@pytest.mark.parametrize("width", [pytest.param(1360, marks=pytest.mark.long), 360])
def test_the_page_does_not_scroll_sideways(open_page: Opened, serve: Serve, width: int) -> None:
    served = serve()
    served.seconds(3)
    page = open_page(served.url, viewport={"width": width, "height": 900})
    live(page)
    expect(page.locator(".tile").first).to_be_visible()
    assert_fits(page)


def test_names_with_markup_are_text(open_page: Opened, serve: Serve) -> None:
    system = System()
    system.states["user"][HOSTILE] = {"state": HOSTILE, "address": HOSTILE, "problem": HOSTILE, "weight": 1.0}
    system.states["user"]["__proto__"] = {"state": "up", "address": "127.0.0.1:1", "weight": 1.0}
    for name in (HOSTILE, "__proto__"):
        system.counters["user"][name] = dict(system.counters["user"]["user-1"])
    system.failing = {"user": 1.0}
    served = serve(system)
    served.seconds(3)
    line = json.dumps({"status": 502, "target": HOSTILE, "time": "x", "why": HOSTILE})
    system.failures = [*system.failures, (10_000, line)]
    served.seconds()
    served.record("end", HOSTILE, service="user", instance=HOSTILE)
    page = open_page(served.url)
    live(page)
    expect(page.locator("#event-list")).to_contain_text(HOSTILE)
    expect(page.locator("#failure-list")).to_contain_text(HOSTILE)
    expect(tile(page, "__proto__")).to_be_visible()
    served.seconds(2)
    assert page.locator("img").count() == 1  # the one of the title
    assert page.evaluate("window.hacked") is None


@pytest.mark.long
def test_the_keyboard_reaches_everything(open_page: Opened, serve: Serve) -> None:
    served = serve()
    served.seconds(2)
    page = open_page(served.url)
    live(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"user-1", "Drain"} <= seen
    tile(page, "user-1").get_by_role("button", name="user-1").press("Enter")
    expect(page.get_by_role("dialog", name="user-1")).to_contain_text("127.0.0.1:24000")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "user-1"
    names = page.evaluate(
        "[...document.querySelectorAll('section, nav, article')].map(e => e.hasAttribute('aria-label')"
        " || !!document.getElementById(e.getAttribute('aria-labelledby')))"
    )
    assert all(names)


@pytest.mark.long
def test_changes_of_health_are_announced_at_most_once_in_five_seconds(open_page: Opened, serve: Serve) -> None:
    system = System(instances=30)
    served = serve(system)
    served.seconds(2)
    page = open_page(served.url)
    live(page)
    expect(tile(page, "user-1")).to_be_visible()
    page.evaluate(
        "window.spoken = []; new MutationObserver(() => window.spoken.push(document.querySelector('#announcer')"
        ".textContent)).observe(document.querySelector('#announcer'), {childList: true})"
    )
    for number in range(1, 31):
        system.states["user"][f"user-{number}"]["state"] = "down"
        served.seconds()
    expect(page.locator(".tile[data-health='bad']")).to_have_count(30)
    spoken = page.evaluate("window.spoken")
    assert spoken[0] == "user-1 is down" and len(spoken) <= 2


@pytest.mark.long
def test_the_theme_can_be_chosen_and_stays(open_page: Opened, serve: Serve) -> None:
    served = serve()
    page = open_page(served.url, color_scheme="light")
    live(page)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
    page.locator("#theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(ground) != light
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.long
def test_a_lost_connection_is_shown_and_opened_again(open_page: Opened, serve: Serve) -> None:
    served = serve()
    served.seconds(2)
    page = open_page(served.url)
    live(page)
    served.drop_streams()
    expect(page.locator("#live-text")).to_have_text("Connection lost, retrying")
    live(page)


@pytest.mark.timeout(240)
def kept_by_scripts(page: Page) -> int:
    """Return the bytes of all values that the scripts of the page hold, without compiled code, which grows with use."""
    pieces: list[str] = []
    session = page.context.new_cdp_session(page)
    session.on("HeapProfiler.addHeapSnapshotChunk", lambda event: pieces.append(event["chunk"]))
    session.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    session.detach()
    heap = json.loads("".join(pieces))
    meta = heap["snapshot"]["meta"]
    fields, kinds = meta["node_fields"], meta["node_types"][0]
    values = {
        kinds.index(kind) for kind in ("object", "array", "string", "concatenated string", "sliced string", "closure")
    }
    nodes, width, size = heap["nodes"], len(fields), fields.index("self_size")
    return sum(nodes[at + size] for at in range(0, len(nodes), width) if nodes[at] in values)


@pytest.mark.long
def test_an_hour_of_samples_grows_neither_the_page_nor_the_gateway(open_page: Opened, serve: Serve) -> None:
    system = System(rate=3)
    system.failing = {"user": 0.15}
    served = serve(system)
    served.seconds(10)
    page = open_page(served.url)
    live(page)

    def sizes() -> dict[str, int]:
        found: dict[str, int] = page.evaluate("window.passerelle.sizes()")
        return found

    def hour(seconds: int) -> None:
        wanted = sizes()["messages"] + seconds
        for _ in range(0, seconds, 50):
            served.seconds(50)
            for number in range(10):
                served.record("restart", f"user-{number} is up again", service="user", instance=f"user-{number}")
            page.wait_for_function("wanted => window.passerelle.sizes().messages >= wanted", arg=wanted - seconds + 50)
            wanted += 50
        page.wait_for_timeout(300)  # the last messages are rendered

    hour(800)  # everything that is kept is full
    before, kept, held = sizes(), system.live.history.columns, kept_by_scripts(page)
    hour(2800)
    after = sizes()
    assert kept_by_scripts(page) <= held * 1.02
    assert after["messages"] >= 3600
    assert after["values"] <= before["values"]
    assert after["nodes"] <= before["nodes"] * 1.02
    assert system.live.history.columns == kept
    page.close()
