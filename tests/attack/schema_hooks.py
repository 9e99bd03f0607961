"""Hook for schemathesis: exclude path parameters that the gateway itself refuses."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import schemathesis

REFUSED = {chr(n) for n in (*range(32), 127)} | {"\\"}


@schemathesis.hook
def filter_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> bool:
    """Return whether the gateway forwards these parameters."""
    return not any(REFUSED & set(unquote(str(value))) for value in (path_parameters or {}).values())
