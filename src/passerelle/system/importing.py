"""Importing code of the user by name, and what hides it."""

from __future__ import annotations

import os
import sys


def hidden_file(module: str, folder: str = "") -> str:
    """Return a remark for a message where ``module`` is not the one in ``folder``, by default the current one.

    The folder is last on the path, so an installed module of the same name hides it. The text is empty where it does
    not.
    """
    name = module.partition(".")[0]
    names = (f"{name}.py", os.path.join(name, "__init__.py"))
    here = next((path for each in names if os.path.exists(path := os.path.join(folder, each))), None)
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if here is None or name not in sys.modules or (loaded is not None and os.path.samefile(loaded, here)):
        return ""
    origin = loaded or "the interpreter"
    return f"; {name!r} was loaded from {origin}, and hides {os.path.abspath(here)}: rename the latter"
