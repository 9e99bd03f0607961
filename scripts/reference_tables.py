"""Generate the tables of the reference pages from the code.

Without arguments: print the tables that differ from the code; exit 1 if any does.

``--write`` (`make tables`) rewrites the tables. A table stands in a page between two comments:

    <!-- table: keys of Service -->
    <!-- end of table -->

- ``keys of MODEL``: the keys of a model of the configuration
- ``policies``: the balancing policies
- ``guards``: the guards of a route, in order
- ``metrics``: all metrics
- ``events``: the kinds of events
- ``commands``: the commands of the command line
- ``losses of nginx``: what nginx in place of the gateway cannot express
- ``losses of compose``: what containers cannot express
- ``losses of kubernetes``: what the export to Kubernetes cannot express
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from passerelle.balancing.registry import REGISTRY
from passerelle.cli.main import passerelle as command_line
from passerelle.config.guards import GUARDS
from passerelle.config.models import config as models
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.values import WholeNumber
from passerelle.config.schema import default_text
from passerelle.export.compose_coverage import COVERAGE as COMPOSE
from passerelle.export.coverage import Coverage, Exported, Lost
from passerelle.export.kubernetes_coverage import COVERAGE as KUBERNETES
from passerelle.export.nginx_coverage import IN_PLACE
from passerelle.observability.events import KINDS
from passerelle.observability.prometheus import METRICS

ROOT = Path(__file__).resolve().parent.parent
PAGES = "docs"

_TABLE = re.compile(r"(<!-- table: ([^>]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def rows(head: Iterable[str], cells_of_rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table."""
    head = list(head)
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *cells_of_rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines).replace("|  |", "| |")


def takes(model: type[Model], key: str) -> str:
    """Describe the value of a configuration key."""
    field = model.model_fields[key]
    return _words(field.annotation, field.metadata, key).one


def _words(annotation: Any, metadata: Iterable[Any], key: str) -> Takes:
    metadata = list(metadata)
    for item in reversed(metadata):
        if isinstance(item, Takes):
            return item
        if isinstance(item, WholeNumber):
            return Takes(f"number, {item.low} to {item.high}", f"numbers, {item.low} to {item.high}")
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0], annotation.__metadata__, key)
    if origin in (types.UnionType, typing.Union):
        (only,) = (argument for argument in arguments if argument is not types.NoneType)
        return _words(only, (), key)
    if origin is tuple:
        item = _words(arguments[0], (), key)
        return Takes(f"{item.one} or a list" if OneOrMore in metadata else f"list of {item.many}")
    if origin is typing.Literal:
        return Takes(", ".join(f"`{word}`" for word in arguments))
    if annotation is bool:
        return Takes("`true` or `false`")
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return Takes(f"[mapping](#{key})")
    raise ValueError(f"{key}: annotate its type {annotation} with Takes")


def keys_of(name: str) -> str:
    """List the keys of the model called ``name``."""
    model: type[Model] = getattr(models, name)
    lines = []
    for key, field in model.model_fields.items():
        default = default_text(field)
        shown = "required" if field.is_required() else f"`{default}`" if default is not None else ""
        lines.append((f"`{key}`", takes(model, key), shown, field.description or ""))
    return rows(("key", "takes", "default", "meaning"), lines)


def policies() -> str:
    """List the balancing policies."""
    return rows(
        ("name", "which instance takes the request", "weights", "use it if"),
        ((f"`{n}`", e.picks, "yes" if e.has_weights else "no", e.suits) for n, e in REGISTRY.items()),
    )


def guards() -> str:
    """List the guards of a route, in order."""
    lines = ((guard.title, guard.reason) for guard in GUARDS)
    return rows(("guard", "reason for its place"), lines)


def metrics() -> str:
    """List all metrics."""
    lines = ((f"`{m.name}`", m.kind, ", ".join(f"`{label}`" for label in m.labels), m.meaning) for m in METRICS)
    return rows(("name", "type", "labels", "meaning"), lines)


def events() -> str:
    """List the kinds of events."""
    return rows(("kind", "meaning"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items()))


def commands() -> str:
    """List the commands with their arguments."""
    context = click.Context(command_line)
    lines = []
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        pieces = [piece for piece in command.collect_usage_pieces(click.Context(command)) if piece != "[OPTIONS]"]
        if isinstance(command, click.Group):
            pieces = ["COMMAND"]
        about = command.get_short_help_str(limit=200).rstrip(".")
        usage = " ".join(("passerelle", name, *pieces)).replace("|", r"\|")
        lines.append((f"`{usage}`", about[:1].lower() + about[1:]))
    return rows(("command", "what it does"), lines)


def losses_of(coverage: Coverage, target: str) -> str:
    """List the keys that an export loses, and those that it loses for some values."""
    lines = []
    for name, support in coverage.keys.items():
        why = support.why if isinstance(support, Lost) else support.condition if isinstance(support, Exported) else ""
        if why:
            model, _, key = name.partition(".")
            lines.append((f"`{'.'.join((*_places()[model], key))}`", why))
    return rows(("key", f"in {target}"), lines)


def _places() -> dict[str, tuple[str, ...]]:
    """Return the keys that lead to each model, the fewest of them."""
    found: dict[str, tuple[str, ...]] = {"Config": ()}
    queue: list[type[Model]] = [models.Config]
    for model in queue:
        for key, field in model.model_fields.items():
            for kind in _models_in(field.annotation):
                if kind.__name__ not in found:
                    found[kind.__name__] = (*found[model.__name__], key)
                    queue.append(kind)
    return found


def _models_in(kind: Any) -> Iterator[type[Model]]:
    if isinstance(kind, type) and issubclass(kind, Model):
        yield kind
    for inner in typing.get_args(kind):
        yield from _models_in(inner)


TABLES: dict[str, Callable[[], str]] = {
    "policies": policies,
    "guards": guards,
    "metrics": metrics,
    "events": events,
    "commands": commands,
    "losses of nginx": lambda: losses_of(IN_PLACE, "nginx"),
    "losses of compose": lambda: losses_of(COMPOSE, "containers"),
    "losses of kubernetes": lambda: losses_of(KUBERNETES, "Kubernetes"),
}


def generated(name: str) -> str:
    """Generate the table called ``name``. Raises KeyError if there is no such table."""
    return keys_of(name.removeprefix("keys of ")) if name.startswith("keys of ") else TABLES[name]()


def rewritten(text: str) -> str:
    """Return the page with its tables regenerated."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{generated(match[2])}\n\n{match[4]}", text)


def missing(texts: Iterable[str]) -> Iterator[str]:
    """Yield the tables that no page has."""
    found = {name for text in texts for _, name, _, _ in _TABLE.findall(text)}
    named = {name: value for name, value in vars(models).items() if isinstance(value, type) and name[0] != "_"}
    keys = {f"keys of {name}" for name, kind in named.items() if issubclass(kind, Model) and kind is not Model}
    yield from sorted((keys | TABLES.keys()) - found)


def main(argv: list[str], root: Path = ROOT) -> int:
    """Check or rewrite the pages below ``root``."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted((root / PAGES).rglob("*.md"))}
    wrong = [f"no page has the table '{name}'" for name in missing(pages.values())]
    for path, text in pages.items():
        new = rewritten(text)
        if new != text and "--write" in argv:
            path.write_text(new, encoding="utf-8")
        elif new != text:
            pairs = zip(_TABLE.findall(text), _TABLE.findall(new), strict=True)
            differing = [name for (_, name, before, _), (_, _, after, _) in pairs if before != after]
            page = path.relative_to(root)
            wrong += [f"{page}: the table '{name}' differs from the code; run make tables" for name in differing]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
