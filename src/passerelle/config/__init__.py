"""The configuration file: models, loader and checks."""

from passerelle.config.checks import rule_of, rules, services_of
from passerelle.config.loader import LoadReport, inspect, inspect_bytes, inspect_text, load, load_text
from passerelle.config.models.addresses import Address
from passerelle.config.models.config import Config, Health, Limits, OnError, Part, Route, Service, Target, Zone
from passerelle.config.problems import ConfigError, Problem

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
    "services_of",
]
