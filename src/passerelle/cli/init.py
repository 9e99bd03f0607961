"""``passerelle init``: ask what runs, where, and on which port, and write a first configuration file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from passerelle.cli.options import parsed_by
from passerelle.cli.support import CONFIG_NAMES, print_problems
from passerelle.config.models.addresses import Address, parse_listen, parse_url
from passerelle.config.models.values import parse_app

_SCHEMA = "gateway.schema.json"
_PORT = 8080


@click.command(short_help="Write a first configuration file.")
@click.option("--app", metavar="MODULE:ATTRIBUTE", help="The application that passerelle runs, such as shop.app:app.")
@click.option("--url", metavar="URL", help="The address of a server that runs already, such as http://localhost:5000.")
@click.option(
    "--folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="The folder in which the application starts; by default the current one.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=parsed_by(parse_listen),
    help=f"Address for clients; by default 127.0.0.1:{_PORT}.",
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: use what is found in the folder, and the defaults.")
@click.option("--schema/--no-schema", default=True, help=f"Write {_SCHEMA} as well, for editors.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="The file to write: gateway.yaml."
)
def init(
    app: str | None,
    url: str | None,
    folder: str | None,
    listen: Address | None,
    yes: bool,
    schema: bool,
    output: str | None,
) -> None:
    """Write a first gateway.yaml. The command asks three questions: what runs, where, and on which port.

    Flask, FastAPI, Django and similar applications in the folder are found; nothing is imported. A file that exists is
    never overwritten. Without a terminal, give --app or --url, or --yes.

    \b
    Examples:
      passerelle init
      passerelle init --yes
      passerelle init --app shop.app:app --folder backend --listen 127.0.0.1:8080
      passerelle init --url http://localhost:5000
    """
    from passerelle.config.loader import inspect_text

    if app is not None and url is not None:
        raise click.UsageError("--app and --url exclude each other")
    if url is not None and folder is not None:
        raise click.UsageError("--folder is for an application, and --url names a server that runs already")
    name = output or CONFIG_NAMES[0]
    for other in (name,) if output else CONFIG_NAMES:
        if os.path.lexists(other):
            raise click.ClickException(f"{other} exists and is left as it is; --output writes another file")
    ask = not yes and sys.stdin.isatty()
    kind, value, inside = _what(app, url, folder, ask)
    folder = os.path.normpath(os.path.join(folder or ".", inside))
    if kind == "app" and ask:
        folder = click.prompt("Where is it (the folder in which it starts)", default=folder)
    where = os.path.relpath(folder, os.path.dirname(name) or ".")
    if listen is None:
        listen = _listen() if ask else Address(host="127.0.0.1", port=_PORT)
    text = _text(kind, value, where, listen, _SCHEMA if schema else None)
    report = inspect_text(text, name, folder=os.path.dirname(name))
    print_problems(report.warnings, "warning: ", err=True)
    if report.config is None:
        print_problems(report.errors, err=True)
        raise click.ClickException("nothing was written: the file would have errors")
    _write(name, text)
    if schema:
        _write_schema(os.path.join(os.path.dirname(name), _SCHEMA))
    up = "passerelle up" if output is None else f"passerelle up {name}"
    click.echo(f"{name} written; start it with: {up}")


def _what(app: str | None, url: str | None, folder: str | None, ask: bool) -> tuple[str, str, str]:
    """Return ``app`` or ``url``, its value, and the folder of the application inside ``folder``.

    It is the option that was given, what was found, or the response to a question.
    """
    inside = "."
    if app is None and url is None:
        from passerelle.migration.found_applications import find_applications

        found = find_applications(Path(folder or "."))
        for each in found if ask else ():
            click.echo(f"found {each.app} ({each.framework})" + (f" in {each.folder}" if each.folder != "." else ""))
        if not ask and not found:
            raise click.UsageError("found no application in this folder; give --app or --url")
        if not ask and len(found) > 1 and found[0].app.partition(":")[0] == found[1].app.partition(":")[0]:
            raise click.UsageError(f"found several applications; give --app: {', '.join(each.app for each in found)}")
        chosen = found[0].app if found else None
        places = {each.app: each.folder for each in reversed(found)}
        if ask:
            chosen = click.prompt("What runs (module:attribute of an application, or a URL)", default=chosen)
        assert chosen is not None
        inside = places.get(chosen, ".")
        app, url = (None, chosen) if "://" in chosen else (chosen, None)
    try:
        if url is not None:
            parse_url(url)
            return "url", url, inside
        assert app is not None
        return "app", parse_app(app), inside
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _listen() -> Address:
    given = click.prompt("On which port do clients connect", default=str(_PORT))
    try:
        found = parse_listen(f"127.0.0.1:{given}" if given.isdecimal() else given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    assert isinstance(found, Address)
    return found


def _text(kind: str, value: str, folder: str, listen: Address, schema: str | None) -> str:
    quoted = json.dumps(value.replace("$", "$$"), ensure_ascii=False)
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += [f"listen: {listen}", "", "services:", "  web:"]
    if kind == "url":
        lines.append(f"    targets: [{quoted}]")
    else:
        lines.append(f"    app: {quoted}")
        if folder != ".":
            lines.append(f"    cwd: {json.dumps(folder.replace('$', '$$'), ensure_ascii=False)}")
    lines += ["", "routes:", '  - {path: "/{rest*}", service: web}']
    return "\n".join(lines) + "\n"


def _write(name: str, text: str) -> None:
    try:
        with open(name, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.ClickException(f"{name} exists and is left as it is; --output writes another file") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {name}: {(error.strerror or str(error)).lower()}") from None


def _write_schema(name: str) -> None:
    """Write the schema of this version; that of an earlier one is replaced."""
    from passerelle.config.schema import json_schema

    try:
        with open(name, "w", encoding="utf-8") as file:
            file.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {name}: {(error.strerror or str(error)).lower()}") from None
