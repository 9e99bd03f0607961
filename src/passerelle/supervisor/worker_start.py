"""Start the process of one gateway worker: ``python -m passerelle.supervisor.worker_start``, as :mod:`.worker_main`.

The worker is imported without garbage collection: what modules create stays, and looking for garbage in it takes a
tenth of a start.
"""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Import the worker and run it. Returns the exit code."""
    gc.disable()
    try:
        from passerelle.supervisor import worker_main
    finally:
        gc.enable()
    return worker_main.main()


if __name__ == "__main__":
    sys.exit(main())
