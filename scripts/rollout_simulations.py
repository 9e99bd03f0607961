"""Simulate rollouts through the controller: 20 healthy ones, and 1,000 of two services that are the same.

Run from the root of the repository: ``python -m scripts.rollout_simulations``. It takes some minutes. It exits with 1
if a healthy rollout does not end at 100 %, or if more than 5 % of the others are rolled back.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from tests.supervisor.rollout_gateways import simulated

HEALTHY = 20
EQUAL = 1000
ALLOWED = 0.05


async def main() -> int:
    """Run all simulations. Returns the exit code."""
    healthy = Counter([(await simulated(seed, 600.0, "0.1%")).status["status"] for seed in range(HEALTHY)])
    print(f"{healthy['done']} of {HEALTHY} healthy rollouts ended at 100 % (600 requests a minute, alpha 0.1 %)")
    equal = Counter([(await simulated(seed, 120.0, "5%")).status["status"] for seed in range(EQUAL)])
    stopped = equal["rolled_back"]
    print(f"{stopped} of {EQUAL} rollouts of equal services were rolled back (120 requests a minute, alpha 5 %)")
    print(f"how these ended: {dict(equal)}")
    return 0 if healthy["done"] == HEALTHY and stopped <= ALLOWED * EQUAL else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
