"""The configuration file: models, loader and checks.

The names are imported when they are used: a worker needs the models only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passerelle.config.checks import services_of
    from passerelle.config.loader import LoadReport, inspect, inspect_bytes, inspect_text, load, load_text
    from passerelle.config.models.addresses import Address
    from passerelle.config.models.config import Config, Health, Limits, OnError, Part, Route, Service, Target, Zone
    from passerelle.config.problems import ConfigError, Problem
    from passerelle.config.route_rules import rule_of, rules, rules_of

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "Health",
    "Limits",
    "LoadReport",
    "OnError",
    "Part",
    "Problem",
    "Route",
    "Service",
    "Target",
    "Zone",
    "inspect",
    "inspect_bytes",
    "inspect_text",
    "load",
    "load_text",
    "rule_of",
    "rules",
    "rules_of",
    "services_of",
]

if not TYPE_CHECKING:  # a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        if name in __all__:
            for module in ("models.config", "models.addresses", "problems", "route_rules", "checks", "loader"):
                found = importlib.import_module(f"{__name__}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
