"""The text of a configuration as data that exports change and write again: texts keep their quotes and references."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from passerelle.config.models.base import Model, given
from passerelle.config.problems import Loc
from passerelle.config.reading import yaml_tree
from passerelle.export.yaml_text import Written


def data_of(node: yaml_tree.YamlNode) -> Any:
    """Return a tree as mappings, lists and texts; texts without quotes are :class:`Written`."""
    if isinstance(node, yaml_tree.YamlMapping):
        return {key: data_of(value) for key, (_, value) in node.items.items()}
    if isinstance(node, yaml_tree.YamlSequence):
        return [data_of(item) for item in node.items]
    assert isinstance(node, yaml_tree.YamlScalar)
    return node.text if node.quoted else Written(node.text)


def values_of(node: yaml_tree.YamlNode) -> Any:
    """Return a tree as mappings, lists and the values that its texts mean."""
    if isinstance(node, yaml_tree.YamlMapping):
        return {key: values_of(value) for key, (_, value) in node.items.items()}
    if isinstance(node, yaml_tree.YamlSequence):
        return [values_of(item) for item in node.items]
    assert isinstance(node, yaml_tree.YamlScalar)
    return node.text if node.quoted else yaml_tree.resolve(node.text)


def texts(data: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """Yield all texts with their places."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from texts(value, (*loc, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from texts(value, (*loc, index))
    elif isinstance(data, str):
        yield loc, data


def at(data: Any, loc: Loc) -> Any:
    """Return what is at ``loc``, or None. A single value may stand for a list of one item."""
    for step in loc:
        if _holds(data, step):
            data = data[step]
        elif step != 0 or isinstance(data, list):
            return None
    return data


def put(data: Any, loc: Loc, value: object) -> None:
    """Replace what is at ``loc``."""
    owner: Any = None
    key: Any = None
    for step in loc:
        if _holds(data, step):
            owner, key, data = data, step, data[step]
    assert owner is not None
    owner[key] = value


def _holds(data: Any, step: str | int) -> bool:
    return step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))


def files(model: object, loc: Loc = ()) -> Iterator[tuple[Loc, Path]]:
    """Yield the paths of a configuration that the file sets, with their places."""
    if isinstance(model, Path):
        yield loc, model
    elif isinstance(model, Model):
        for key in type(model).model_fields:
            if key in given(model):
                yield from files(getattr(model, key), (*loc, key))
    elif isinstance(model, tuple):
        for index, item in enumerate(model):
            yield from files(item, (*loc, index))
    elif isinstance(model, dict):
        for name, item in model.items():
            yield from files(item, (*loc, name))


def is_loopback(host: str) -> bool:
    """Whether the host is the machine itself."""
    name = host.removesuffix(".").removeprefix("[").removesuffix("]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
