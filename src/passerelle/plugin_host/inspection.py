"""A process that imports plugins and reports which cannot be loaded: what they print or break stays in it.

``python -P -m passerelle.plugin_host.inspection`` reads a JSON list of plugins from stdin (``name``, ``kind``,
``reference``, ``settings``, ``folder``), and writes one line with a list of findings to stdout: ``name``, ``key``,
``loc`` and ``text``. What plugins print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys

from passerelle.plugin_host.loading import PluginLoadError, add_folder, load


def main() -> int:
    """Load the plugins. Return the exit code."""
    plugins = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as report:
        os.dup2(2, 1)
        findings = []
        for plugin in plugins:
            add_folder(plugin["folder"])
            try:
                load(plugin["kind"], plugin["reference"], plugin["settings"], plugin["folder"])
            except PluginLoadError as error:
                findings.append({"name": plugin["name"], "key": error.key, "loc": error.loc, "text": str(error)})
        json.dump(findings, report)
    sys.stdout.flush()
    os._exit(0)  # without the threads and exit handlers of plugins


if __name__ == "__main__":
    sys.exit(main())
