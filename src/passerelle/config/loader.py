"""Reading a configuration file: text to :class:`Config`, or every error with line, column and key at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from passerelle.config import check, tree
from passerelle.config.addresses import Address, parse_admin, parse_listen
from passerelle.config.base import Shape
from passerelle.config.jwt import KEY_SOURCES, Jwt, jwt_shape
from passerelle.config.models import SOURCES, Config, Route, Service, route_shape, service_shape
from passerelle.config.problems import ConfigError, Finding, Loc, Problem, allowed_keys, from_pydantic, key_of
from passerelle.config.substitute import substitute
from passerelle.config.words import nearest

_SERVICE = TypeAdapter(Service)
_ROUTE = TypeAdapter(Route)


@dataclass(frozen=True, slots=True)
class Report:
    """What reading a file gave: a configuration, or errors. Warnings come with a configuration only."""

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a file; ``ConfigError`` with every problem, ``OSError`` if it cannot be read."""
    return _config(inspect(path, environ))


def load_text(
    text: str, file: str = "gateway.yaml", environ: Mapping[str, str] = os.environ, folder: str | os.PathLike[str] = "."
) -> Config:
    """The configuration in ``text``; ``file`` names it in errors, relative paths start at ``folder``."""
    return _config(inspect_text(text, file, environ, folder))


def _config(report: Report) -> Config:
    if report.config is None:
        raise ConfigError(report.errors)
    return report.config


def inspect(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Report:
    """Read and judge a file; ``OSError`` if it cannot be read."""
    name = os.fspath(path)
    with open(name, "rb") as file:
        data = file.read(tree.MAX_BYTES + 1)
    return inspect_bytes(data, name, environ, Path(name).parent)


def inspect_bytes(
    data: bytes,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
) -> Report:
    """Judge the content of a file, as read from disk: at most :data:`tree.MAX_BYTES` of UTF-8."""
    if len(data) > tree.MAX_BYTES:
        return Report(None, (Problem(file, 1, 1, "", f"larger than {tree.MAX_BYTES} bytes"),), ())
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        problem = Problem(
            file, line, column, "", f"octet 0x{data[error.start]:02X} is not UTF-8; save the file as UTF-8"
        )
        return Report(None, (problem,), ())
    return inspect_text(text, file, environ, folder)


def inspect_text(
    text: str, file: str = "gateway.yaml", environ: Mapping[str, str] = os.environ, folder: str | os.PathLike[str] = "."
) -> Report:
    """Judge ``text``: everything that is wrong, or the configuration and what is odd about it."""
    try:
        root, duplicates = tree.parse(text)
    except tree.SyntaxProblem as error:
        return Report(None, (Problem(file, error.line, error.column, "", error.message),), ())
    source = _Source(text, file, root, environ, Path(folder))
    for duplicate in duplicates:
        key = key_of((*duplicate.parents, duplicate.key.text))
        message = f"found twice; the first is at line {duplicate.first.line}"
        source.problems.append(Problem(file, duplicate.key.line, duplicate.key.column, key, message))
    config = _judge(source)
    if source.problems:
        return Report(None, tuple(_in_order(source.problems)), ())
    assert config is not None
    return Report(config, (), tuple(source.problem(finding) for finding in check.warnings(config)))


def _in_order(problems: list[Problem]) -> Iterator[Problem]:
    """As they stand in the file; what an alias repeats is said once."""
    seen: set[tuple[int, int, str]] = set()
    for problem in sorted(problems, key=lambda p: (p.line, p.column, p.key)):
        same = (problem.line, problem.column, problem.message)
        if same not in seen:
            seen.add(same)
            yield problem


class _Source:
    """The file as nodes and as plain data, and the problems found so far."""

    def __init__(self, text: str, file: str, root: tree.Node, environ: Mapping[str, str], folder: Path) -> None:
        self.file = file
        self.folder = folder
        self.problems: list[Problem] = []
        # Places that are reported already, and places whose value came from a secret's file and is never shown.
        self.broken: set[Loc] = set()
        self.secret: set[Loc] = set()
        self._lines = text.split("\n")
        self._root = root
        self._environ = environ
        self.data = self._convert(root, ())

    @property
    def context(self) -> dict[str, object]:
        """What validators may ask for."""
        return {"folder": self.folder}

    def report(self, finding: Finding) -> None:
        """Add a problem, unless that place is reported already."""
        if any(finding.loc[: len(place)] == place for place in self.broken):
            return
        if finding.loc in self.secret:
            finding = Finding(finding.loc, "what the file of the secret contains is not allowed here (it is not shown)")
        self.problems.append(self.problem(finding))

    def problem(self, finding: Finding) -> Problem:
        """A finding with its place in the file."""
        node: tree.Node = self._root
        key: tree.Node | None = None
        known = 0
        loc = finding.loc
        for step in finding.loc:
            if step == 0 and isinstance(node, tree.Mapping) and "0" not in node.items:
                loc = (*loc[:known], *loc[known + 1 :])  # one value stands for a list of it
                continue
            if isinstance(node, tree.Mapping) and step in node.items:
                key, node = node.items[str(step)]
            elif isinstance(node, tree.Sequence) and isinstance(step, int) and step < len(node.items):
                key, node = None, node.items[step]
            else:
                break
            known += 1
        if known < len(loc):
            # Something that is not there: it is missing in a mapping, or the short form of a value stands for it.
            if isinstance(node, tree.Scalar):
                loc = loc[:known]
            place = key or node
        else:
            place = key if finding.at_key and key is not None else node
        return Problem(self.file, place.line, place.column, key_of(loc), finding.message)

    def _convert(self, node: tree.Node, loc: Loc) -> Any:
        if isinstance(node, tree.Mapping):
            return {key: self._convert(value, (*loc, key)) for key, (_, value) in node.items.items()}
        if isinstance(node, tree.Sequence):
            return [self._convert(item, (*loc, index)) for index, item in enumerate(node.items)]
        assert isinstance(node, tree.Scalar)
        return self._scalar(node, loc)

    def _scalar(self, node: tree.Scalar, loc: Loc) -> Any:
        text = node.text
        if "$" in text:
            filled = substitute(text, self._environ, self.folder)
            for nth, message in filled.problems:
                line, column = self._dollar(node, nth)
                self.problems.append(Problem(self.file, line, column, key_of(loc), message))
                self.broken.add(loc)
            text = filled.text
            if filled.secret:
                self.secret.add(loc)
        # Words of a command and values of the environment are text, however they look: 1.10 stays 1.10.
        # So is a secret, and what stands in one must not be shown in an error about numbers.
        in_service = len(loc) == 4 and loc[0] == "services" and loc[2] in ("run", "env")
        if node.quoted or in_service or loc == ("jwt", "secret"):
            return text
        value = tree.resolve(text)
        if value is None and loc and not _may_be_null(loc) and loc not in self.broken:
            self.report(Finding(loc, "found nothing; give it a value or remove the key"))
            self.broken.add(loc)
        return value

    def _dollar(self, node: tree.Scalar, nth: int) -> tuple[int, int]:
        """Where the ``nth`` dollar sign of a scalar stands."""
        line, column = node.line - 1, node.column - 1
        while (line, column) < node.end and line < len(self._lines):
            found = self._lines[line].find("$", column)
            if found < 0:
                line, column = line + 1, 0
            elif nth:
                nth, column = nth - 1, found + 1
            else:
                return line + 1, found + 1
        return node.line, node.column


def _may_be_null(loc: Loc) -> bool:
    if loc[0] != "routes" or len(loc) < 5 or loc[2] != "compose":
        return False
    return loc[4] == "on_error" and (len(loc) == 5 or (len(loc) > 5 and loc[5] == "value"))


def _judge(source: _Source) -> Config | None:
    data = source.data
    if not isinstance(data, dict):
        source.report(Finding((), "found no mapping; needed are the keys services and routes"))
        return None
    try:
        config = Config.model_validate(data, context=source.context)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != "shape"]
        _report_details(source, details)
        for finding in _shapes(data):
            source.report(finding)
        draft = _draft(source, [detail["loc"] for detail in details])
    else:
        draft = check.Draft.of(config)
        for finding in check.errors(draft):
            source.report(finding)
        if not source.problems and (unusable := check.table_finding(config)):
            source.report(unusable)
        return config
    for finding in check.errors(draft):
        source.report(finding)
    return None


def _report_details(source: _Source, details: list[Any]) -> None:
    """Report pydantic's errors; a key that is missing only because it is misspelt is one error, not two."""
    meant: set[Loc] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            loc = detail["loc"]
            near = nearest(str(loc[-1]), allowed_keys(loc[:-1]))
            if near:
                meant.add((*loc[:-1], near))
    for detail in details:
        if detail["type"] == "missing" and detail["loc"] in meant:
            continue
        # Items with errors are not counted by pydantic: a list of one wrong item is not empty.
        if detail["type"] == "too_short" and _at(source.data, detail["loc"]):
            continue
        around = _at(source.data, detail["loc"][:-1])
        source.report(from_pydantic(detail, list(around) if isinstance(around, dict) else []))


def _at(data: Any, loc: Loc) -> Any:
    for step in loc:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _items(data: dict[str, Any]) -> Iterator[tuple[Loc, dict[str, Any]]]:
    services = data.get("services")
    if isinstance(services, dict):
        yield from ((("services", name), item) for name, item in services.items() if isinstance(item, dict))
    routes = data.get("routes")
    if isinstance(routes, list):
        yield from ((("routes", index), item) for index, item in enumerate(routes) if isinstance(item, dict))


def _shapes(data: dict[str, Any]) -> Iterator[Finding]:
    """Keys that must or must not stand together, in every service and route."""
    for loc, item in _items(data):
        choices = SOURCES if loc[0] == "services" else ("service", "compose")
        unknown = [key for key in item if key not in allowed_keys(loc)]
        if any(nearest(key, allowed_keys(loc)) in choices for key in unknown):
            continue
        shape: Shape = service_shape(set(item)) if loc[0] == "services" else route_shape(set(item))
        for key, message in shape:
            yield Finding((*loc, key) if key else loc, message, at_key=True)
    jwt = data.get("jwt")
    if isinstance(jwt, dict) and not any(nearest(key, KEY_SOURCES) for key in set(jwt) - set(Jwt.model_fields)):
        for key, message in jwt_shape(set(jwt)):
            yield Finding(("jwt", key) if key else ("jwt",), message, at_key=True)


def _draft(source: _Source, bad: list[Loc]) -> check.Draft:
    """What can be made of a file with errors: the wrong keys are left out, item by item."""
    data = source.data
    bad_in: dict[Loc, list[Loc]] = {}
    for place in (*bad, *source.broken):
        bad_in.setdefault(place[:2], []).append(place[2:])
    services: dict[str, Service | None] = {}
    routes: list[check.DraftRoute] = []
    for name in data["services"] if isinstance(data.get("services"), dict) else ():
        services[name] = None
    for loc, item in _items(data):
        wrong = bad_in.get(loc, [])
        if loc[0] == "services":
            services[str(loc[1])] = _repair(_SERVICE, item, wrong, source.context)[0]
            continue
        route, touched = _repair(_ROUTE, item, wrong, source.context)
        if route is not None:
            routes.append(check.DraftRoute(int(loc[1]), route, touched))
    listen, admin = _address(data, "listen"), _address(data, "admin")
    return check.Draft(listen, admin, services, routes, frozenset(data), _jwt(source))


def _jwt(source: _Source) -> Jwt | None:
    try:
        return Jwt.model_validate(source.data.get("jwt"), context=source.context)
    except ValidationError:
        return None


def _address(data: dict[str, Any], key: str) -> Address | None:
    if key not in data:
        default = Config.model_fields[key].default
        return default if isinstance(default, Address) else None
    try:
        found = parse_listen(data[key]) if key == "listen" else parse_admin(data[key])
    except ValueError:
        return None
    return found if isinstance(found, Address) else None


def _repair(
    adapter: TypeAdapter[Any], item: Any, wrong: list[Loc], context: dict[str, object]
) -> tuple[Any, frozenset[str]]:
    """``item`` as a model after what is wrong was left out, and the first-level keys that were touched; or None."""
    item = copy.deepcopy(item)
    touched: set[str] = set()
    for _ in range(4):
        for loc in wrong:
            _leave_out(item, loc)
            touched.update(str(step) for step in loc[:1])
        if adapter is _ROUTE:
            item.pop("compose" if "service" in item else "rewrite" if "compose" in item else "", None)
        try:
            return adapter.validate_python(item, context=context), frozenset(touched)
        except ValidationError as error:
            wrong = [detail["loc"] for detail in error.errors(include_url=False)]
    return None, frozenset(touched)


def _leave_out(item: Any, loc: Loc) -> None:
    """Remove what stands at ``loc``: the innermost key of a mapping that leads there (list items have no key).

    A path is not removed but replaced: everything beside it can be judged without it.
    """
    owner, key = None, None
    for step in loc:
        if isinstance(item, dict):
            if step == "path":
                item["path"] = "/"
                return
            if step not in item:
                # A missing key: what lacks it goes.
                break
            owner, key = item, step
            item = item[step]
        elif isinstance(item, list) and isinstance(step, int) and step < len(item):
            item = item[step]
        else:
            break
    if owner is not None:
        owner.pop(key, None)
