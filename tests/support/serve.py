"""One gateway in a separate process: ``python -m tests.support.serve``, with its configuration as one line of JSON.

The process prints the port it listens on, then responds to each further line of input with its metrics as JSON. It ends
at the end of its input. It is for tests that observe a process from outside (memory), and for the public suites.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from passerelle.config import load_text
from passerelle.gateway.gateway import Gateway


async def main(text: str) -> None:
    """Run the gateway configured by ``text`` until the input ends."""
    gateway = Gateway(load_text(text))
    _, port = await gateway.start()
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(gateway.snapshot()), flush=True)
    await gateway.stop(0.0)


if __name__ == "__main__":
    # The configuration is the first line (JSON is valid YAML), so that standard input can stay open.
    uvloop.run(main(sys.stdin.readline()))
