"""Start the process of one gateway worker: ``python -m passerelle.supervisor.worker_start``, as :mod:`.worker_main`."""

from __future__ import annotations

import sys

from passerelle.system.quick_import import import_uncollected


def main() -> int:
    """Import the worker and run it. Returns the exit code."""
    code: int = import_uncollected("passerelle.supervisor.worker_main").main()
    return code


if __name__ == "__main__":
    sys.exit(main())
