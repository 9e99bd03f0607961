"""The choice of the store for what is kept about splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from passerelle.config.models.config import Config
from passerelle.supervisor.split_store import FileStore, SplitStore

DEFAULT_FOLDER: Final = ".passerelle"
"""The folder for state beside the configuration file, unless that names another one."""


def state_folder(config: Config, folder: Path) -> Path:
    """Return the folder for state of a gateway whose file is in ``folder``."""
    return config.state if config.state is not None else folder / DEFAULT_FOLDER


def store_for(config: Config, folder: Path, log: Callable[[str], None]) -> SplitStore:
    """Return the store of a gateway whose file is in ``folder``: the Redis of ``config``, or its folder for state."""
    file = FileStore(state_folder(config, folder), log)
    if config.redis is None:
        return file
    # Imported here: the client of Redis is an optional dependency.
    from passerelle.supervisor.redis_split_store import RedisSplitStore

    return RedisSplitStore(config.redis.url, config.cache.namespace, file)
