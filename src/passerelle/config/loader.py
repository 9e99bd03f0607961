"""Reading a configuration file: text to :class:`Config`, or every error with line, column and key at once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from passerelle.config import checks
from passerelle.config.models.addresses import Address, parse_admin, parse_listen
from passerelle.config.models.base import Model, Shape
from passerelle.config.models.config import Config, Route, Service
from passerelle.config.models.guards import Keys
from passerelle.config.models.identity_token import IdentityToken
from passerelle.config.models.jwt import KEY_SOURCES, Jwt, jwt_shape
from passerelle.config.models.sessions import Sessions
from passerelle.config.models.shapes import KINDS, SOURCES, route_shape, service_shape
from passerelle.config.models.tls import ListenerTls
from passerelle.config.models.values import AccessLog
from passerelle.config.problems import ConfigError, Finding, Loc, Problem, allowed_keys, from_pydantic, key_of, model_at
from passerelle.config.reading import yaml_tree
from passerelle.config.reading.wording import nearest
from passerelle.config.source import ConfigSource

_Block = TypeVar("_Block", bound=Model)

_SERVICE = TypeAdapter(Service)
_ROUTE = TypeAdapter(Route)
_ACCESS_LOG: TypeAdapter[str | Path] = TypeAdapter(AccessLog)


_ADMIN: Address = Config.model_fields["admin"].default


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What reading a file gave: a configuration, or errors. Warnings come with a configuration only.

    ``admin`` is the file's, as far as that can be read: who asks there may do so because of the errors.
    """

    config: Config | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    admin: Address | None = _ADMIN


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a file; ``ConfigError`` with every problem, ``OSError`` if it cannot be read."""
    return _config(inspect(path, environ))


def load_text(
    text: str,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
    *,
    elsewhere: bool = False,
) -> Config:
    """The configuration in ``text``; ``file`` names it in errors, relative paths start at ``folder``."""
    return _config(inspect_text(text, file, environ, folder, elsewhere=elsewhere))


def _config(report: LoadReport) -> Config:
    if report.config is None:
        raise ConfigError(report.errors)
    return report.config


def inspect(
    path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ, *, elsewhere: bool = False
) -> LoadReport:
    """Read and judge a file; ``OSError`` if it cannot be read. ``elsewhere``: see :func:`inspect_text`."""
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
    """Judge the content of a file, as read from disk: at most :data:`yaml_tree.MAX_BYTES` of UTF-8."""
    if len(data) > yaml_tree.MAX_BYTES:
        return LoadReport(None, (Problem(file, 1, 1, "", f"larger than {yaml_tree.MAX_BYTES} bytes"),), ())
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        problem = Problem(
            file, line, column, "", f"octet 0x{data[error.start]:02X} is not UTF-8; save the file as UTF-8"
        )
        return LoadReport(None, (problem,), ())
    return inspect_text(text, file, environ, folder, elsewhere=elsewhere)


def inspect_text(
    text: str,
    file: str = "gateway.yaml",
    environ: Mapping[str, str] = os.environ,
    folder: str | os.PathLike[str] = ".",
    *,
    elsewhere: bool = False,
) -> LoadReport:
    """Judge ``text``: everything that is wrong, or the configuration and what is odd about it.

    ``elsewhere``: nothing is started here, so files and folders that this machine lacks are odd, not wrong.
    """
    try:
        root, duplicates = yaml_tree.parse(text)
    except yaml_tree.SyntaxProblem as error:
        return LoadReport(None, (Problem(file, error.line, error.column, "", error.message),), ())
    source = ConfigSource(text, file, root, environ, Path(folder), elsewhere=elsewhere)
    for duplicate in duplicates:
        key = key_of((*duplicate.parents, duplicate.key.text))
        message = f"found twice; the first is at line {duplicate.first.line}"
        source.problems.append(Problem(file, duplicate.key.line, duplicate.key.column, key, message))
    config = _judge(source)
    if source.problems:
        return LoadReport(None, tuple(_in_order(source.problems)), (), _admin(source))
    assert config is not None
    warnings = [*_in_order(source.elsewhere), *(source.problem(finding) for finding in checks.warnings(config))]
    return LoadReport(config, (), tuple(warnings), config.admin)


def _admin(source: ConfigSource) -> Address | None:
    found = source.data.get("admin") if isinstance(source.data, dict) else None
    try:
        admin = parse_admin(found) if found is not None else _ADMIN
    except ValueError:
        return _ADMIN
    return admin if isinstance(admin, Address) else None


def _in_order(problems: list[Problem]) -> Iterator[Problem]:
    """As they stand in the file; what an alias repeats is said once."""
    seen: set[tuple[int, int, str]] = set()
    for problem in sorted(problems, key=lambda p: (p.line, p.column, p.key)):
        same = (problem.line, problem.column, problem.message)
        if same not in seen:
            seen.add(same)
            yield problem


def _judge(source: ConfigSource) -> Config | None:
    data = source.data
    if not isinstance(data, dict):
        source.report(Finding((), "the file is not a mapping; it needs the keys services and routes"))
        return None
    try:
        config = Config.model_validate(data, context=source.context)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != "shape"]
        _report_details(source, details)
        for finding in _shapes(data):
            source.report(finding)
        draft = _partial_config(source, [detail["loc"] for detail in details])
    else:
        draft = checks.PartialConfig.of(config)
        for finding in checks.errors(draft):
            source.report(finding)
        if not source.problems and (unusable := checks.table_finding(config)):
            source.report(unusable)
        return config
    for finding in checks.errors(draft):
        source.report(finding)
    return None


def _report_details(source: ConfigSource, details: list[Any]) -> None:
    """Report pydantic's errors; a key that is missing only because it is misspelt is one error, not two."""
    meant: set[Loc] = set()
    stray: dict[Loc, list[str]] = {}
    for detail in details:
        if detail["type"] == "extra_forbidden":
            around, key = detail["loc"][:-1], str(detail["loc"][-1])
            item = _at(source.data, around)
            near = _intended_key(key, item, around)
            if near:
                meant.add((*around, near))
            elif around not in stray:
                stray[around] = _missing_keys(item, around)
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "missing" and (loc in meant or loc[:-1] in stray):
            continue
        # Items with errors are not counted by pydantic: a list of one wrong item is not empty.
        if detail["type"] == "too_short" and _at(source.data, loc):
            continue
        around = _at(source.data, loc[:-1])
        finding = from_pydantic(detail, list(around) if isinstance(around, dict) else [])
        if detail["type"] == "extra_forbidden" and (lacking := stray.pop(loc[:-1], [])):
            finding = Finding(loc, f"{finding.message}; missing: {', '.join(lacking)}", at_key=True)
            stray[loc[:-1]] = []
        source.report(finding)


def _intended_key(key: str, item: Mapping[str, Any], loc: Loc) -> str | None:
    """The key that ``item`` does not have and that an unknown one was probably meant to be."""
    return nearest(key, [name for name in allowed_keys(loc) if name not in item])


def _missing_keys(item: Mapping[str, Any], loc: Loc) -> list[str]:
    """What the mapping at ``loc`` must have and has not, in words."""
    model = model_at(loc)
    fields = model.model_fields if model is not None else {}
    lacking = [name for name, field in fields.items() if field.is_required() and name not in item]
    choices = _choices(loc)
    if choices and not any(name in item for name in choices):
        lacking.append(f"one of {', '.join(choices)}")
    return lacking


def _choices(loc: Loc) -> tuple[str, ...]:
    """The keys of which a service or a route has exactly one."""
    if len(loc) != 2:
        return ()
    return SOURCES if loc[0] == "services" else KINDS if loc[0] == "routes" else ()


def _at(data: Any, loc: Loc) -> Any:
    for step in loc:
        if step == 0 and isinstance(data, dict) and 0 not in data:
            continue  # one value stands for a list of it
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
        unknown = [key for key in item if key not in allowed_keys(loc)]
        # An unknown key that could be anything, or one of the choices, explains already why there is none of them.
        if any((near := _intended_key(key, item, loc)) is None or near in _choices(loc) for key in unknown):
            continue
        shape: Shape = service_shape(set(item)) if loc[0] == "services" else route_shape(set(item))
        for key, message in shape:
            yield Finding((*loc, key) if key else loc, message, at_key=True)
    jwt = data.get("jwt")
    if isinstance(jwt, dict) and not any(nearest(key, KEY_SOURCES) for key in set(jwt) - set(Jwt.model_fields)):
        for key, message in jwt_shape(set(jwt)):
            yield Finding(("jwt", key) if key else ("jwt",), message, at_key=True)


def _partial_config(source: ConfigSource, bad: list[Loc]) -> checks.PartialConfig:
    """What can be made of a file with errors: the wrong keys are left out, item by item."""
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
        route, touched = _repair(_ROUTE, item, wrong, source.context)
        if route is not None:
            routes.append(checks.PartialRoute(int(loc[1]), route, touched))
    listen, admin = _address(data, "listen"), _address(data, "admin")
    blocks = (
        _block(source, "jwt", Jwt),
        _block(source, "tls", ListenerTls),
        _block(source, "sessions", Sessions),
        _block(source, "keys", Keys),
        _block(source, "identity_token", IdentityToken),
    )
    return checks.PartialConfig(listen, admin, services, routes, frozenset(data), *blocks, _log(source))


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
            while unfit := [key for key, _ in route_shape(set(item)) if key is not None]:
                for key in unfit:
                    del item[key]
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
