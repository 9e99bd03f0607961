"""Command line ``python -m benchmarks.report``: insert the figures of ``latest.json`` into ``docs/benchmarks.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.report.write import RESULTS, publish

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> int:
    latest = RESULTS / "latest.json"
    if not latest.exists():
        print(f"no figures yet: {latest}", file=sys.stderr)
        return 1
    publish(json.loads(latest.read_text()), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
