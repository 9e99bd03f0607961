"""Walk from the monolith to the services: ``python -m crossing [--runs N] [--only walk|defects|DEFECT] [--json FILE]``.

Exit code 0: no request failed, and each defect was rolled back in each run before 1 % of the visitors saw it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from crossing.configurations import Pace, Place
from crossing.gateway import Trouble, environment
from crossing.services import DEFECTS
from crossing.walk import Walk, defective, fresh, is_good
from passerelle.system import ports

# All requests are for the new service, so more of them are needed before a step is complete.
FAULTY = Pace(first_requests=40)
SHOP = Path(__file__).resolve().parent.parent


def main() -> int:
    """Walk, and return the exit code."""
    parser = argparse.ArgumentParser(prog="crossing", description="Walk from the monolith to the services.")
    parser.add_argument("--runs", type=int, default=1, help="how often each defect is rolled out (default: 1)")
    parser.add_argument("--only", choices=("walk", "defects", *DEFECTS), help="a part of it")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report to FILE")
    options = parser.parse_args()
    report: dict[str, Any] = {"walk": None, "defects": []}
    with tempfile.TemporaryDirectory(prefix="crossing-") as name:
        root = Path(name)
        environ = environment(root, SHOP)
        tell("Databases: 10,000 users and 1,000 products, in the monolith and in the new services.")
        subprocess.run([sys.executable, "-m", "shopkit.prepare"], cwd=SHOP, env=environ, check=True, stdout=sys.stderr)
        try:
            if options.only in (None, "walk"):
                with fresh(root / "walk") as folder:
                    report["walk"] = Walk(place(folder), Pace(), environ, tell).run()
            if options.only != "walk":
                tell("\n4. Services with a defect, each rolled out in the same way:")
                for number in range(options.runs):
                    for defect in DEFECTS if options.only in (None, "defects") else (options.only,):
                        with fresh(root / f"{defect}-{number}") as folder:
                            report["defects"].append(defective(place(folder), FAULTY, environ, defect, number, tell))
        except Trouble as trouble:
            tell(str(trouble))
            return 1
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return summary(report)


def summary(report: dict[str, Any]) -> int:
    """Print the end of the story; return 0 if it is a good one."""
    walk, defects = report["walk"], report["defects"]
    good = [is_good(each) for each in defects]
    tell("")
    if walk is not None:
        tell(f"The walk took {walk['seconds']:.0f} s: {walk['failed']} of {walk['total']['requests']} requests failed.")
    for defect in dict.fromkeys(each["defect"] for each in defects):
        own = [fine for fine, each in zip(good, defects, strict=True) if each["defect"] == defect]
        tell(f"{defect}: caught in {sum(own)} of {len(own)} runs, before 1 % of the visitors saw it.")
    return 0 if all(good) and (walk is None or not walk["failed"]) else 1


def place(folder: Path) -> Place:
    """Return where a gateway runs whose files are in ``folder``."""
    port = ports.free([])
    return Place(port, ports.free([port]), folder, SHOP)


def tell(text: str) -> None:
    """Print a part of the story at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
