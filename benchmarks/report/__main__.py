"""Command line ``python -m benchmarks.report``: insert the figures of ``latest.json`` into the documentation.

``docs/benchmarks.md`` gets all of them, ``README.md`` the rows that :mod:`benchmarks.report.readme` chooses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.report import readme
from benchmarks.report.write import RESULTS, publish

ROOT = Path(__file__).parents[2]


def main() -> int:
    latest = RESULTS / "latest.json"
    if not latest.exists():
        print(f"no figures yet: {latest}", file=sys.stderr)
        return 1
    content = json.loads(latest.read_text())
    publish(content, ROOT / "docs" / "benchmarks.md")
    readme.update(content, ROOT / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
