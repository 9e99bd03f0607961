"""Load a configuration file: turn its text into a :class:`Config`, or report all errors with line, column and key.

The file is longer than 400 lines because it is one sequence: what one step finds decides what the next ones can check.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from passerelle.config import checks
from passerelle.config.expand import expand, origins
from passerelle.config.includes import decode, join_files
from passerelle.config.models.access_log import AccessLog
from passerelle.config.models.admin import Admin, AdminPort
from passerelle.config.models.alerts import AlertSettings
from passerelle.config.models.alerts import shapes as alert_shapes
from passerelle.config.models.base import Model, Shape
from passerelle.config.models.basic import Basic
from passerelle.config.models.config import Config, Route, Service, Version
from passerelle.config.models.error_pages import ErrorPages
from passerelle.config.models.guards import Keys, fixed_key_shape
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.jwt import KEY_SOURCES, Jwt, jwt_shape
from passerelle.config.models.listeners import Listener, Listeners
from passerelle.config.models.oidc import Oidc
from passerelle.config.models.plugins import PLUGIN_KINDS, Plugin
from passerelle.config.models.redis import is_off
from passerelle.config.models.sessions import Sessions
from passerelle.config.models.shapes import KINDS, SOURCES, needs_services, route_shape, service_shape
from passerelle.config.models.tls import PAIR, ListenerTls, tls_shape
from passerelle.config.models.values import SystemName
from passerelle.config.problems import (
    ConfigError,
    Finding,
    Loc,
    Problem,
    allowed_keys,
    foreign,
    from_pydantic,
    model_at,
)
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.included import NONE_INCLUDED, Included
from passerelle.config.reading.wording import nearest
from passerelle.config.source import ConfigSource
from passerelle.config.versions import with_versions

_Block = TypeVar("_Block", bound=Model)

_SERVICE = TypeAdapter(Service)
_ROUTE = TypeAdapter(Route)
_PLUGIN = TypeAdapter(Plugin)
_PAGES: TypeAdapter[dict[str, Path]] = TypeAdapter(ErrorPages)
_ACCOUNT: TypeAdapter[str] = TypeAdapter(SystemName)
_ACCESS_LOG: TypeAdapter[Path | str] = TypeAdapter(AccessLog)
_LISTEN: TypeAdapter[tuple[Listener, ...]] = TypeAdapter(Listeners)
_ADMIN: TypeAdapter[AdminPort | None] = TypeAdapter(Admin)

_DEFAULT_ADMIN = AdminPort.model_construct()
_NO_SERVICES: ErrorDetails = {"type": "missing", "loc": ("services",), "msg": "", "input": {}}


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The result of loading a file: a configuration with warnings, or errors.

    ``admin`` is the admin port of the file, also when the file has errors, so that status requests still reach it.
    ``included`` are the files that it includes, as far as they could be read.
    """

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    admin: AdminPort | None = _DEFAULT_ADMIN
    included: Included = NONE_INCLUDED
    locate: Callable[[Finding], Problem] | None = None
    """Adds the place in the file to a finding of a later check; None for a file with errors."""


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """Load a file. Raises ``ConfigError`` with every problem, and ``OSError`` if the file cannot be read."""
    return _config(inspect(path, environ))


def load_text(
    text: str,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
    *,
    elsewhere: bool = False,
) -> Config:
    """Load ``text``. Errors name it ``file``; relative paths start at ``folder``. Raises ``ConfigError``."""
    return _config(inspect_text(text, file, environ, folder, elsewhere=elsewhere))


def _config(report: LoadReport) -> Config:
    if report.config is None:
        raise ConfigError(report.errors)
    return report.config


def inspect(
    path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ, *, elsewhere: bool = False
) -> LoadReport:
    """Read and check a file. Raises ``OSError`` if the file cannot be read. ``elsewhere``: see :func:`inspect_text`."""
    name = os.fspath(path)
    with open(name, "rb") as file:
        data = file.read(yaml_tree.MAX_BYTES + 1)
    return inspect_bytes(data, name, environ, Path(name).parent, elsewhere=elsewhere)


def inspect_bytes(
    data: bytes,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
    *,
    elsewhere: bool = False,
) -> LoadReport:
    """Check the content of a file: at most :data:`yaml_tree.MAX_BYTES` bytes of UTF-8."""
    text = decode(data, file)
    if isinstance(text, Problem):
        return LoadReport(None, (text,), ())
    return inspect_text(text, file, environ, folder, elsewhere=elsewhere)


def inspect_text(
    text: str,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
    *,
    elsewhere: bool = False,
) -> LoadReport:
    """Check ``text``, and report all errors, or the configuration and its warnings.

    With ``elsewhere``, files and folders that are missing on this machine are warnings instead of errors: the
    configuration is for another machine.
    """
    try:
        joined = join_files(text, file, Path(folder), environ)
    except yaml_tree.SyntaxProblem as error:
        return LoadReport(None, (Problem(file, error.line, error.column, "", error.message),), ())
    tree = expand(joined.root, file, environ)
    if unusable := joined.fatal + tree.problems:
        return LoadReport(None, tuple(_in_order(unusable, joined.texts)), (), included=joined.included)
    source = ConfigSource(joined.texts, file, tree.root, environ, Path(folder), elsewhere=elsewhere)
    source.problems += joined.problems
    config = _validate(source)
    if source.problems:
        problems = tuple(_in_order(source.problems, joined.texts))
        return LoadReport(None, problems, (), _admin(source), joined.included)
    assert config is not None
    found = [*_in_order(source.elsewhere, joined.texts), *map(source.problem, checks.warnings(config))]
    config = config.with_origins(origins(tree, several_files=len(joined.texts) > 1), joined.included)
    return LoadReport(with_versions(config), (), tuple(found), config.admin, joined.included, source.problem)


def _admin(source: ConfigSource) -> AdminPort | None:
    found = source.data.get("admin") if isinstance(source.data, dict) else None
    try:
        return _ADMIN.validate_python(found, context=source.context) if found is not None else _DEFAULT_ADMIN
    except ValidationError:
        return _DEFAULT_ADMIN


def _in_order(problems: list[Problem], files: Iterable[str]) -> Iterator[Problem]:
    """Sort problems by their place, and drop repetitions that YAML aliases and defaults cause.

    ``files`` are the included files in the order in which they were read.
    """
    order = {name: number for number, name in enumerate(files)}
    seen: set[tuple[str, int, int, str]] = set()
    for problem in sorted(problems, key=lambda p: (order.get(p.file, 0), p.line, p.column, p.key)):
        same = (problem.file, problem.line, problem.column, problem.message)
        if same not in seen:
            seen.add(same)
            yield problem


def _validate(source: ConfigSource) -> Config | None:
    data = source.data
    if not isinstance(data, dict):
        source.report(Finding((), "the file is not a mapping; it needs the keys services and routes"))
        return None
    try:
        config = Config.model_validate(data, context=source.context)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != "shape"]
        if "services" not in data and needs_services(data.get("routes")):
            details.append(_NO_SERVICES)
        _report_details(source, details)
        for finding in _shapes(data):
            source.report(finding)
        partial = _partial_config(source, [detail["loc"] for detail in details])
    else:
        if "services" not in data and needs_services(data.get("routes")):
            source.report(from_pydantic(_NO_SERVICES, data))
        partial = checks.PartialConfig.of(config)
        for finding in checks.errors(partial):
            source.report(finding)
        if not source.problems and (unusable := checks.table_finding(config)):
            source.report(unusable)
        return config
    for finding in checks.errors(partial):
        source.report(finding)
    return None


def _report_details(source: ConfigSource, details: list[Any]) -> None:
    """Report the errors of pydantic. A required key that is misspelt gives one error, not two."""
    intended: set[Loc] = set()
    unmatched: dict[Loc, list[str]] = {}
    for detail in details:
        if detail["type"] == "extra_forbidden":
            around, key = detail["loc"][:-1], str(detail["loc"][-1])
            item = _at(source.data, around)
            near = _intended_key(key, item, around)
            if near:
                intended.add((*around, near))
            elif around not in unmatched:
                unmatched[around] = _missing_keys(item, around)
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "missing" and (loc in intended or loc[:-1] in unmatched):
            continue
        # pydantic does not count items with errors, but a list with one wrong item is not empty.
        if detail["type"] == "too_short" and _at(source.data, loc):
            continue
        around = _at(source.data, loc[:-1])
        show = source.may_show(loc)
        finding = from_pydantic(detail, around if isinstance(around, dict) else {}, show=show)
        if detail["type"] == "extra_forbidden" and (lacking := unmatched.pop(loc[:-1], [])):
            finding = Finding(loc, f"{finding.message}; missing: {', '.join(lacking)}", at_key=True)
            unmatched[loc[:-1]] = []
        source.report(finding)


def _intended_key(key: str, item: Mapping[str, Any], loc: Loc) -> str | None:
    """Guess which key, absent from ``item``, the unknown ``key`` was intended to be; None without a good guess."""
    replacement = foreign((*loc, key), None, item)
    if replacement is not None:
        return replacement.key or None
    return nearest(key, [name for name in allowed_keys(loc) if name not in item])


def _missing_keys(item: Mapping[str, Any], loc: Loc) -> list[str]:
    """Name the required keys that the mapping at ``loc`` lacks, for an error message."""
    model = model_at(loc)
    fields = model.model_fields if model is not None else {}
    lacking = [name for name, field in fields.items() if field.is_required() and name not in item]
    choices = _choices(loc)
    if choices and not any(name in item for name in choices):
        lacking.append(f"one of {', '.join(choices)}")
    return lacking


def _choices(loc: Loc) -> tuple[str, ...]:
    """Return the keys of which a service or a route must have exactly one."""
    if len(loc) != 2:
        return ()
    return SOURCES if loc[0] == "services" else KINDS if loc[0] == "routes" else ()


def _at(data: Any, loc: Loc) -> Any:
    for step in loc:
        if step == 0 and isinstance(data, dict) and 0 not in data:
            continue  # a single value in place of a list of one item
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
    """Check which keys every service and route combines."""
    for loc, item in _items(data):
        unknown = [key for key in item if key not in allowed_keys(loc)]
        # An unknown key without a guess, or close to one of the choices, already explains why the choice is missing.
        if any((near := _intended_key(key, item, loc)) is None or near in _choices(loc) for key in unknown):
            continue
        shape: Shape = service_shape(set(item)) if loc[0] == "services" else route_shape(set(item))
        for key, message in shape:
            yield Finding((*loc, key) if key else loc, message, at_key=True)
        versions = item.get("versions")
        for name, version in versions.items() if loc[0] == "services" and isinstance(versions, dict) else ():
            place = (*loc, "versions", name)
            if isinstance(version, dict) and not set(version) - set(Version.model_fields):
                for key, message in service_shape(set(version)):
                    yield Finding((*place, key) if key else place, message, at_key=True)
    for index, unfit, message in alert_shapes(data.get("alerts")):
        place = ("alerts", "rules", index)
        yield Finding((*place, unfit) if unfit else place, message, at_key=True)
    keys = data.get("keys")
    entries = keys.get("fixed") if isinstance(keys, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            for unfit, message in fixed_key_shape(set(entry)):
                place = ("keys", "fixed", index)
                yield Finding((*place, unfit) if unfit else place, message, at_key=True)
    jwt = data.get("jwt")
    if isinstance(jwt, dict) and not any(nearest(key, KEY_SOURCES) for key in set(jwt) - set(Jwt.model_fields)):
        for key, message in jwt_shape(set(jwt)):
            yield Finding(("jwt", key) if key else ("jwt",), message, at_key=True)
    yield from _tls_shape(data.get("tls"))


def _tls_shape(tls: Any) -> Iterator[Finding]:
    if isinstance(tls, dict) and not any(
        nearest(key, (*PAIR, "auto")) for key in set(tls) - set(ListenerTls.model_fields)
    ):
        for key, message in tls_shape(set(tls)):
            yield Finding(("tls", key) if key else ("tls",), message, at_key=True)


def _partial_config(source: ConfigSource, bad: list[Loc]) -> checks.PartialConfig:
    """Build what the checks need from a file with errors: wrong keys are left out of each service and route."""
    data = source.data
    bad_in: dict[Loc, list[Loc]] = {}
    for place in (*bad, *source.broken):
        bad_in.setdefault(place[:2], []).append(place[2:])
    services: dict[str, Service | None] = {}
    routes: list[checks.PartialRoute] = []
    for name in data["services"] if isinstance(data.get("services"), dict) else ():
        services[name] = None
    for loc, item in _items(data):
        wrong = bad_in.get(loc, [])
        if loc[0] == "services":
            services[str(loc[1])] = _repair(_SERVICE, item, wrong, source.context)[0]
            continue
        route, repaired = _repair(_ROUTE, item, wrong, source.context)
        if route is not None:
            routes.append(checks.PartialRoute(int(loc[1]), route, repaired))
    listen: tuple[Listener, ...] | None = _optional(_LISTEN, data, "listen")
    admin: AdminPort | None = _optional(_ADMIN, data, "admin")
    blocks = (
        _block(source, "jwt", Jwt),
        _block(source, "tls", ListenerTls),
        _block(source, "sessions", Sessions),
        _block(source, "keys", Keys),
        _block(source, "basic", Basic),
        _block(source, "oidc", Oidc),
        _block(source, "identity_token", IdentityToken),
        _block(source, "alerts", AlertSettings),
    )
    present = frozenset(key for key in data if key != "redis" or not is_off(data[key]))
    account = (_optional(_ACCOUNT, data, "user"), _optional(_ACCOUNT, data, "group"))
    pages: dict[str, Path] = _optional(_PAGES, data, "errors") or {}
    listed = data["plugins"] if isinstance(data.get("plugins"), dict) else {}
    plugins = {name: _plugin(item, bad_in.get(("plugins", name), [])) for name, item in listed.items()}
    more = (_log(source), pages, account, plugins)
    return checks.PartialConfig(listen, admin, services, routes, present, *blocks, *more)


def _plugin(item: Any, wrong: list[Loc]) -> Plugin | None:
    plugin, repaired = _repair(_PLUGIN, item, wrong, {})
    return plugin if repaired.isdisjoint(PLUGIN_KINDS) else None


def _block(source: ConfigSource, key: str, model: type[_Block]) -> _Block | None:
    try:
        return model.model_validate(source.data.get(key), context=source.context)
    except ValidationError:
        return None


def _log(source: ConfigSource) -> Path | None:
    try:
        found = _ACCESS_LOG.validate_python(source.data.get("access_log"), context=source.context)
    except ValidationError:
        return None
    return found if isinstance(found, Path) else None


def _optional(adapter: TypeAdapter[Any], data: dict[str, Any], key: str) -> Any:
    """Return the value of ``key`` or its default; None if it is invalid."""
    try:
        return adapter.validate_python(data[key]) if key in data else Config.model_fields[key].default
    except ValidationError:
        return None


def _repair(
    adapter: TypeAdapter[Any], item: Any, wrong: list[Loc], context: dict[str, object]
) -> tuple[Any, frozenset[str]]:
    """Make a model of ``item`` without its wrong keys. Returns the model or None, and the first-level keys repaired."""
    item = copy.deepcopy(item)
    repaired: set[str] = set()
    for _ in range(4):
        for loc in wrong:
            _leave_out(item, loc)
            repaired.update(str(step) for step in loc[:1])
        if adapter is _ROUTE:
            while unfit := [key for key, _ in route_shape(set(item)) if key is not None]:
                for key in unfit:
                    del item[key]
        try:
            return adapter.validate_python(item, context=context), frozenset(repaired)
        except ValidationError as error:
            wrong = [detail["loc"] for detail in error.errors(include_url=False)]
    return None, frozenset(repaired)


def _leave_out(item: Any, loc: Loc) -> None:
    """Remove the value at ``loc``, or rather the innermost key of a mapping that contains it.

    A wrong ``path`` is replaced by ``/`` instead, so that the other keys of the item can still be checked.
    """
    owner, key = None, None
    for step in loc:
        if isinstance(item, dict):
            if step == "path":
                item["path"] = "/"
                return
            if step not in item:
                # The key is missing: remove the mapping that lacks it.
                break
            owner, key = item, step
            item = item[step]
        elif isinstance(item, list) and isinstance(step, int) and step < len(item):
            item = item[step]
        else:
            break
    if owner is not None:
        owner.pop(key, None)
