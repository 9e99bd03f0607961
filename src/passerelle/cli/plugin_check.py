"""Checks that the plugins of a configuration can be loaded, in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passerelle.config.models.config import Config
    from passerelle.config.problems import Finding

SECONDS = 30.0
"""How long the imports of all plugins may take."""
_MOST_OUTPUT = 400


def plugin_findings(config: Config) -> list[Finding]:
    """Return what is wrong with the plugins of ``config``: their imports and their settings."""
    from passerelle.config.problems import Finding

    if not config.plugins:
        return []
    plugins = [{"name": name, **plugin.described()} for name, plugin in config.plugins.items()]
    command = [sys.executable, "-P", "-m", "passerelle.plugin_host.inspection"]
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter, with fixed arguments
            command, input=json.dumps(plugins), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [Finding(("plugins",), f"the modules were not imported within {SECONDS:g} s", at_key=True)]
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:]
        reason = f": {last[0][:_MOST_OUTPUT]}" if last else ""
        return [Finding(("plugins",), f"the process that imports the modules ended early{reason}", at_key=True)]
    return [
        Finding(
            ("plugins", each["name"], each["key"], *each["loc"]),
            each["text"],
            at_key=each["key"] == "settings" and not each["loc"],
        )
        for each in found
    ]
