"""examples/balancers: two services with five instances each, round robin."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.support.gateways import Rig
from tests.support.upstream import answering, ok

FILE = Path(__file__).resolve().parents[2] / "examples" / "balancers" / "gateway.yaml"


def served(rig: Rig) -> tuple[dict[str, Any], list[bytes]]:
    """The example's services, each address that of an instance of ours that answers with the original port."""
    names: list[bytes] = []

    def instance(match: re.Match[str]) -> str:
        names.append(match[1].encode())
        return rig.upstream(answering(ok(names[-1]))).url

    text = re.sub(r"http://127\.0\.0\.1:(\d+)$", instance, FILE.read_text(), flags=re.MULTILINE)
    return yaml.safe_load(text), names


def test_each_load_balancer_has_every_second_request_and_each_instance_every_tenth(rig: Rig) -> None:
    config, names = served(rig)
    assert len(names) == 10
    client = rig.connect(rig.gateway(config["services"], config["routes"]))
    bodies = [client.request("GET", "/user/7").body for _ in range(100)]
    assert Counter(bodies) == dict.fromkeys(names, 10)
    first = set(names[:5])
    assert all((one in first) != (next_one in first) for one, next_one in itertools.pairwise(bodies))


def test_one_load_balancer_carries_everything_when_the_other_is_gone(rig: Rig) -> None:
    config, names = served(rig)
    client = rig.connect(rig.gateway(config["services"], config["routes"]))
    for upstream in rig.upstreams[:5]:
        upstream.refuse()
    bodies = Counter(client.request("GET", "/user/7").body for _ in range(100))
    assert set(bodies) == set(names[5:])
