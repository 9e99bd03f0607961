"""Print the routes of an application as JSON. It runs in the application's interpreter, with its standard library only.

``python url_map_child.py MODULE:ATTRIBUTE``: the attribute may have dots, and ``()`` calls it. An application with a
``url_map`` (Flask, Quart) prints ``{"rules": …}``, one with ``openapi()`` (FastAPI) ``{"openapi": …}``. Whatever the
application prints goes to stderr. Exit code 3 means that there is no such application, or that it has neither.
"""

import importlib
import json
import os
import sys
from typing import Any, NoReturn


def main() -> None:
    """Load the application, and print its routes."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, os.getcwd())
    module, _, attribute = sys.argv[1].partition(":")
    is_called = attribute.endswith("()")
    attribute = attribute[:-2] if is_called else attribute
    if not module or not attribute:
        refuse(f"{sys.argv[1]!r} is not of the form module:attribute")
    found: Any
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        refuse(f"there is no module {error.name!r} in {os.getcwd()} or on the Python path")
    for name in attribute.split("."):
        if not hasattr(found, name):
            refuse(f"module {module!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    if is_called:
        found = found()
    if hasattr(found, "url_map") and hasattr(found.url_map, "iter_rules"):
        result = {"rules": [described(rule) for rule in found.url_map.iter_rules() if not rule.build_only]}
    elif callable(getattr(found, "openapi", None)):
        result = {"openapi": found.openapi()}
    else:
        kind = type(found).__name__
        factory = f"; if it makes the application, write {sys.argv[1]}()" if callable(found) and not is_called else ""
        refuse(f"{sys.argv[1]!r} has no url_map as Flask's applications have: it is of type {kind}{factory}")
    with output:
        json.dump(result, output)


def described(rule: Any) -> dict[str, Any]:
    """Return what the gateway needs of a rule."""
    converters = getattr(rule, "_converters", {})
    return {
        "rule": rule.rule,
        "methods": sorted(rule.methods) if rule.methods else None,
        "own_options": not getattr(rule, "provide_automatic_options", True),
        "host": rule.host,
        "subdomain": rule.subdomain,
        "rest": [name for name, found in converters.items() if not getattr(found, "part_isolating", True)],
        "websocket": bool(rule.websocket),
    }


def refuse(why: str) -> NoReturn:
    """End the process, with a reason for the user."""
    print(why, file=sys.stderr)
    sys.exit(3)


if __name__ == "__main__":
    main()
