"""The tree of a configuration as it applies: with its profile merged in, and with defaults in every route.

Both are done on nodes, before values are checked: a value keeps the place where it was written, so errors and
``passerelle explain`` report that place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from passerelle.config.includes import join_files, joined_list, replaced
from passerelle.config.models.defaults import Defaults
from passerelle.config.models.shapes import KINDS, route_shape
from passerelle.config.origins import Origins
from passerelle.config.problems import Problem, allowed_keys
from passerelle.config.reading.wording import hint
from passerelle.config.reading.yaml_tree import (
    YamlMapping,
    YamlNode,
    YamlScalar,
    YamlSequence,
    resolve,
)

VARIABLE = "PASSERELLE_PROFILE"
"""The environment variable that names the profile."""

# Of these keys, false is a value of its own.
_HAS_FALSE = frozenset({"tell_deadline", "stream_idle_timeout", "tunnel_idle_timeout"})


@dataclass(slots=True)
class ExpandedTree:
    """The tree of ``file``, the profile in it, and what makes it unusable.

    ``defaulted``: the keys of routes that defaults set, by the index of the route.
    """

    root: YamlNode
    file: str
    profile: str | None = None
    problems: list[Problem] = field(default_factory=list)
    defaulted: dict[int, dict[str, YamlNode]] = field(default_factory=dict)

    def report(self, node: YamlNode, key: str, message: str) -> None:
        """Add a problem at the place of ``node``."""
        self.problems.append(Problem(node.file or self.file, node.line, node.column, key, message))


def expand(root: YamlNode, file: str, environ: Mapping[str, str]) -> ExpandedTree:
    """Merge the profile that the environment names, and put the defaults into the routes."""
    expanded = ExpandedTree(root, file)
    _merge_profile(expanded, environ.get(VARIABLE, ""))
    _fill_in(expanded)
    return expanded


def _merge_profile(expanded: ExpandedTree, wanted: str) -> None:
    root = expanded.root
    if not isinstance(root, YamlMapping) or "profiles" not in root.items:
        return
    key, profiles = root.items["profiles"]
    expanded.root = base = replaced(root, {name: item for name, item in root.items.items() if name != "profiles"})
    if not isinstance(profiles, YamlMapping):
        expanded.report(profiles, "profiles", "allowed is a mapping of names to parts of a file")
        return
    for name, (_, profile) in profiles.items.items():
        _check_profile(expanded, profile, f"profiles.{name}")
    if not wanted or expanded.problems:
        return
    if wanted not in profiles.items:
        names = list(profiles.items)
        message = f"{VARIABLE} is {wanted!r}; allowed: {', '.join(names)}{hint(wanted, names)}"
        expanded.report(key, "profiles", message)
        return
    chosen = profiles.items[wanted][1]
    assert isinstance(chosen, YamlMapping)
    expanded.profile = wanted
    expanded.root = _merged(base, chosen, at_top=True)


def _check_profile(expanded: ExpandedTree, profile: YamlNode, place: str) -> None:
    """Find what no profile can have, also in those that do not apply: another key than the file has."""
    if not isinstance(profile, YamlMapping):
        expanded.report(profile, place, "allowed is a mapping with keys of the file, such as {access_log: 'off'}")
        return
    known = [key for key in allowed_keys(()) if key not in ("include", "profiles")]
    for name, (key, _) in profile.items.items():
        if name not in known:
            expanded.report(key, f"{place}.{name}", f"unknown key in a profile{hint(name, known)}")


def _merged(base: YamlMapping, over: YamlMapping, *, at_top: bool = False) -> YamlMapping:
    """Return ``base`` with the values of ``over``: mappings are merged, routes are added, null removes a key."""
    items = dict(base.items)
    for name, (key, node) in over.items.items():
        present = items.get(name)
        if present is None:
            items[name] = key, node
        elif _is_null(node):
            del items[name]
        elif isinstance(node, YamlMapping) and isinstance(present[1], YamlMapping):
            items[name] = key, _merged(present[1], node)
        elif at_top and name == "routes" and isinstance(node, YamlSequence) and isinstance(present[1], YamlSequence):
            items[name] = present[0], joined_list(present[1], node)
        else:
            items[name] = key, node
    return replaced(base, items)


def _is_null(node: YamlNode) -> bool:
    return isinstance(node, YamlScalar) and not node.quoted and resolve(node.text) is None


def _is_false(node: YamlNode) -> bool:
    return isinstance(node, YamlScalar) and not node.quoted and resolve(node.text) is False


def _fill_in(expanded: ExpandedTree) -> None:
    """Put the defaults into each route that may have them and does not set them."""
    root = expanded.root
    if not isinstance(root, YamlMapping) or "defaults" not in root.items or "routes" not in root.items:
        return
    defaults, (key, routes) = root.items["defaults"][1], root.items["routes"]
    if not isinstance(defaults, YamlMapping) or not isinstance(routes, YamlSequence):
        return
    known = {name: item for name, item in defaults.items.items() if name in Defaults.model_fields}
    filled = [_filled(expanded, route, index, known) for index, route in enumerate(routes.items)]
    listed = YamlSequence(routes.line, routes.column, routes.size, routes.file, items=filled)
    expanded.root = replaced(root, {**root.items, "routes": (key, listed)})


def _filled(
    expanded: ExpandedTree, route: YamlNode, index: int, defaults: dict[str, tuple[YamlScalar, YamlNode]]
) -> YamlNode:
    if not isinstance(route, YamlMapping):
        return route
    items = dict(route.items)
    for name, (key, node) in defaults.items():
        present = items.get(name)
        if present is not None:
            if _is_null(present[1]) or (_is_false(present[1]) and name not in _HAS_FALSE):
                del items[name]
        elif _may_have(set(route.items), name):
            items[name] = key, node
            expanded.defaulted.setdefault(index, {})[name] = key
    return replaced(route, items)


def _may_have(keys: set[str], name: str) -> bool:
    """Whether a route with ``keys`` may have the key ``name`` as well."""
    kinds = [kind for kind in KINDS if kind in keys]
    return not kinds or name not in {key for key, _ in route_shape({kinds[0], name})}


def tree_of(text: str, file: str, environ: Mapping[str, str] = os.environ) -> YamlNode:
    """Return the tree of a text that a loader has accepted. Raises ``OSError`` if an included file has changed."""
    joined = join_files(text, file, Path(file).parent, environ)
    tree = expand(joined.root, file, environ)
    if joined.fatal or tree.problems:
        raise OSError(str((joined.fatal + tree.problems)[0]))
    return tree.root


def origins(tree: ExpandedTree, *, several_files: bool) -> Origins:
    """Return the places of routes, where they are not obvious, and of the defaults in them."""

    def place(node: YamlNode) -> str:
        return f"{node.file or tree.file}:{node.line}"

    root = tree.root
    listed = root.items.get("routes") if isinstance(root, YamlMapping) else None
    routes: dict[int, str] = {}
    if listed is not None and isinstance(listed[1], YamlSequence) and (several_files or tree.profile is not None):
        routes = {index: place(route) for index, route in enumerate(listed[1].items)}
    defaulted = {index: {name: place(key) for name, key in found.items()} for index, found in tree.defaulted.items()}
    return Origins(tree.profile, routes, defaulted)


def without_defaults(root: YamlNode) -> YamlNode:
    """Return an expanded tree without the defaults, which each of its routes has."""
    if not isinstance(root, YamlMapping):
        return root
    return replaced(root, {name: item for name, item in root.items.items() if name != "defaults"})
