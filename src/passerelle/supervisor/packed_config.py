"""The configuration as the supervisor sends it to its workers: checked once, and for many routes much faster to read
than the text.
"""

from __future__ import annotations

import base64
import pickle
import zlib

from passerelle.config.models.config import Config


def pack(config: Config) -> str:
    """Return ``config`` in a form for :func:`unpack`. It contains the secrets that workers need.

    `backup` is left out: its databases and their passwords are for the command alone.
    """
    if config.backup is not None:
        config = config.model_copy(update={"backup": None})
    return base64.b64encode(zlib.compress(pickle.dumps(config, pickle.HIGHEST_PROTOCOL), 1)).decode()


def unpack(packed: str) -> Config:
    """Return the configuration that :func:`pack` has packed. ``packed`` must come from the supervisor."""
    config = pickle.loads(zlib.decompress(base64.b64decode(packed)))  # noqa: S301 - from the parent process
    assert isinstance(config, Config)
    return config
