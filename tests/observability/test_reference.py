"""The reference pages agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passerelle.errors import TABLE, Failure, Kind, Side
from passerelle.observability.access_log import LINE_BYTES
from passerelle.observability.metrics import BUCKETS, Metrics
from passerelle.observability.prometheus import METRICS, render
from passerelle.observability.redaction import redact
from tests.observability.test_metrics import of_instances

# An empty cache with a second level.
HELD = {"bytes": 0, "capacity_bytes": 0, "entries": 0, "evictions": 0}
SHARED = HELD | {"redis": {"connected": 1, "errors": 0, "hits": 0, "misses": 0, "stores": 0}}

DOCS = Path(__file__).parents[2] / "docs" / "reference"


def test_metrics_page_lists_every_name_with_its_type_and_no_other() -> None:
    metrics = Metrics()
    metrics.cache = lambda: SHARED
    metrics.route("/").observe(200, 0.1)
    exposed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", render(metrics.snapshot())[0].decode(), re.MULTILINE))
    page = (DOCS / "metrics.md").read_text()
    listed = dict(re.findall(r"^\| `(passerelle_\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert listed == exposed


def test_metrics_page_lists_the_labels() -> None:
    metrics = Metrics()
    metrics.cache = lambda: SHARED
    metrics.route("/").observe(200, 0.1)
    metrics.route("/").count_failure(Kind.TIMEOUT)
    metrics.route("/").cache["hit"] = 1
    metrics.route("/").not_stored["vary"] = 1
    metrics.route("/").verdict("allowed", "2xx")
    service = metrics.service("s", lambda: 0)
    service.observe(200, 0.1)
    service.breaker = lambda: "closed"
    service.hedge("won")
    service.concurrency = lambda: {"limit": 20, "running": 3, "waiting": 0}
    service.count_failure(Kind.TIMEOUT, 0.1)
    metrics.malformed(Kind.BAD_REQUEST)
    metrics.plugin("p").count("allowed")
    supervised = {
        "shadows": {"/": {"outcomes": {"compared": 1}, "differing": 0}},
        "splits": {"/": {"s": {"requests": 1, "failed": 0, "failed_users": 0}}},
        "split_weights": {"/": {"s": 1000}},
        "events": {"start": 1},
        "scaling": {"s": {"wanted": 2, "changes": {"load": 1}}},
        "alerts": {"firing": {"p99": 0}, "deliveries": {"delivered": 1}},
        "rollouts": {"/": {"status": "running", "leads": True, "changes": {"running": 1}}},
        "instances": of_instances(a=3)["instances"],
    }
    text = render(metrics.snapshot() | supervised)[0].decode()
    page = (DOCS / "metrics.md").read_text()
    for name, labels in re.findall(r"^\| `(passerelle_\w+)` \| \w+ \| ([^|]*)\|", page, re.MULTILINE):
        match = re.search(rf"^{name}(?:_count)?(?:{{(.*)}})? ", text, re.MULTILINE)
        assert match, name
        assert set(re.findall(r"(\w+)=", match[1] or "")) == set(re.findall(r"`(\w+)`", labels)), name


def test_metrics_page_states_the_bounds() -> None:
    page = " ".join((DOCS / "metrics.md").read_text().split())
    match = re.search(r"bounds at ([\d., and]+) milliseconds and at ([\d., and]+) seconds", page)
    assert match
    milliseconds, seconds = ([float(n) for n in re.findall(r"[\d.]+\d|\d", part)] for part in match.groups())
    assert [n / 1000 for n in milliseconds] + seconds == list(BUCKETS)


@pytest.mark.parametrize("side", list(Side))
def test_access_log_page_lists_every_failure_under_its_side(side: Side) -> None:
    page = (DOCS / "access-log.md").read_text()
    match = re.search(rf"^\| {side.value} \| (.*) \|$", page, re.MULTILINE)
    assert match
    assert re.findall(r"`(\w+)`", match[1]) == [kind.value for kind in Kind if TABLE[kind][1] is side]


def test_access_log_page_states_the_bound_and_the_secret_names() -> None:
    page = (DOCS / "access-log.md").read_text()
    assert f"at most {LINE_BYTES} bytes" in page
    section = page.split("## Secrets")[1].split("## Delivery")[0]
    before, after = section.split("replaced by", 1)[1].split("not `", 1)
    for name in re.findall(r"`([\w-]+)`", before):
        assert redact(f"/x?{name}=1".encode(), 100).endswith(b"[redacted]"), name
    assert redact(b"/x?" + after.split("`")[0].encode() + b"=1", 100).endswith(b"=1")


def test_the_help_of_a_metric_is_its_row_without_markup() -> None:
    metrics = Metrics()
    metrics.cache = lambda: SHARED
    text = render(
        metrics.snapshot() | {"events": {"start": 1}, "scaling": {"s": {"wanted": 2, "changes": {"load": 1}}}}
    )[0].decode()
    assert len(METRICS) == len(re.findall(r"^# HELP ", text, re.MULTILINE))
    help_lines = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    assert help_lines["passerelle_rate_limit_dry_run_total"] == (
        "Requests that a rate limit with dry_run would have refused."
    )
    assert not [line for line in help_lines.values() if "`" in line or "](" in line or not line.endswith(".")]


def test_errors_page_describes_every_problem_type_with_its_status_and_title() -> None:
    page = (DOCS / "errors.md").read_text()
    sections = re.findall(r"^### (\S+)\n\nStatus (\d+): (.+)\.\n\n\S[^#]+\*\*What to do\.\*\* ", page, re.MULTILINE)
    assert sections == [
        (Failure(kind).type.rpartition("/")[2], str(status), title) for kind, (status, _, title) in TABLE.items()
    ]


def test_errors_page_has_each_type_under_the_side_that_causes_it() -> None:
    page = (DOCS / "errors.md").read_text()
    for side, name in ((Side.CLIENT, "the client"), (Side.GATEWAY, "the gateway"), (Side.UPSTREAM, "a service")):
        section = page.partition(f"## Caused by {name}\n")[2].partition("\n## ")[0]
        kinds = {heading.replace("-", "_") for heading in re.findall(r"^### (\S+)$", section, re.MULTILINE)}
        assert kinds == {kind.value for kind in Kind if TABLE[kind][1] is side}
