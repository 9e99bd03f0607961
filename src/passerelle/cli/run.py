"""The commands that start something, and those that talk to what runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import click
import orjson

from passerelle.cli.support import (
    CONFIG_NAMES,
    config_argument,
    config_path,
    exit_negative,
    json_option,
    print_json,
    print_problems,
    print_table,
)
from passerelle.config.loader import inspect, inspect_text
from passerelle.config.models.addresses import Address, parse_admin, parse_listen, parse_url
from passerelle.config.models.config import Config
from passerelle.config.models.values import WholeNumber
from passerelle.supervisor import reaper
from passerelle.supervisor.fleet import Setup
from passerelle.supervisor.output import Output
from passerelle.supervisor.report import ConsoleReport, seconds, wants_colour
from passerelle.supervisor.supervisor import Supervisor
from passerelle.system import descriptors, startup

DEFAULT_ADMIN: Address = Config.model_fields["admin"].default
ANSWER_LIMIT = 5.0  # seconds
CHANGE_LIMIT = 600.0  # seconds: a change waits for instances to come up and for others to finish what they have


def _as(parse: Callable[[object], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A word, or several, as one of the configuration's own values."""

    def one(ctx: click.Context, param: click.Parameter, word: str) -> object:
        try:
            # `off` stays a word, because None means that the option was not given.
            return parse(word) or "off"
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    def callback(ctx: click.Context, param: click.Parameter, found: Any) -> Any:
        if isinstance(found, tuple):
            return tuple(one(ctx, param, word) for word in found)
        return None if found is None else one(ctx, param, found)

    return callback


def _parse_workers(found: object) -> object:
    """A word of the command line as the number that the file has."""
    return WholeNumber(1, 256).check(int(found) if isinstance(found, str) and found.isdecimal() else found)


_listen = click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_as(parse_listen),
    help="Where clients connect, such as 127.0.0.1:8080; port 0 takes a free one.",
)
_admin = click.option(
    "--admin",
    metavar="HOST:PORT|off",
    callback=_as(parse_admin),
    help="Where metrics, health and status are served.",
)
_workers = click.option(
    "--workers",
    metavar="N",
    callback=_as(_parse_workers),
    help="Gateway processes that share the port, 1 to 256.",
)

_watch = click.option(
    "--watch", is_flag=True, help="Read the file anew whenever it changes, as `passerelle reload` does."
)


@click.command()
@config_argument
@_listen
@_admin
@_workers
@_watch
def up(
    config: str | None, listen: Address | None, admin: Address | str | None, workers: int | None, watch: bool
) -> NoReturn:
    """Run everything: the services' instances and the gateway. Ctrl-C stops it all; a second one kills it all.

    The options override the file.
    """
    name, text, loaded = _read(config, watch)
    given = {"listen": listen, "admin": admin, "workers": workers}
    overrides = frozenset(key for key, value in given.items() if value is not None)
    folder = Path(name).resolve().parent
    # Not where a link on the way leads now: it may lead elsewhere when the file is read anew.
    path = Path(name).absolute()
    _supervise(Setup(_override(loaded, listen, admin, workers), text, name, folder, path, overrides, watch))


@click.command(short_help="Balance requests over running servers, without any file.")
@click.argument("urls", metavar="URL...", nargs=-1, required=True, callback=_as(parse_url))
@_listen
@_admin
@_workers
@click.option(
    "--balance",
    type=click.Choice(["round_robin", "weighted", "least_inflight", "p2c", "ewma"]),
    default="p2c",
    show_default=True,
    help="How a target is picked.",
)
def proxy(
    urls: tuple[Address, ...],
    listen: Address | None,
    admin: Address | str | None,
    workers: int | None,
    balance: str,
) -> NoReturn:
    """Balance requests over running servers, without any file: `passerelle proxy http://127.0.0.1:5000`."""
    # JSON is YAML (YAML 1.2 §1.3), so this is a configuration like any other.
    text = orjson.dumps(
        {
            "services": {"upstream": {"targets": [url.url for url in urls], "balance": balance}},
            "routes": [{"path": "/{rest*}", "service": "upstream"}],
        }
    ).decode()
    name = "the command line"
    report = inspect_text(text, name)
    if report.config is None:
        raise click.UsageError("; ".join(problem.message for problem in report.errors))
    _supervise(Setup(_override(report.config, listen, admin, workers), text, name, Path.cwd()))


@click.command(short_help="Run one gateway worker and nothing else, for containers.")
@config_argument
@_listen
@_admin
@_watch
def gateway(config: str | None, listen: Address | None, admin: Address | str | None, watch: bool) -> NoReturn:
    """Run one gateway worker and nothing else, for containers: the services must run elsewhere (`targets`, `zones`)."""
    name, text, loaded = _read(config, watch)
    local = [name for name, service in loaded.services.items() if service.is_local]
    if local:
        names = ", ".join(local)
        text = f"{name}: these services have app or run, but `passerelle gateway` starts none: {names};"
        click.echo(f"{text} give them targets, or use `passerelle up`", err=True)
        exit_negative()
    if loaded.workers > 1:
        click.echo(f"{name}: workers: {loaded.workers} is for `passerelle up`; this is one worker", err=True)
    from passerelle.supervisor import standalone
    from passerelle.supervisor import worker_main as worker

    startup.reset_signals()
    descriptors.raise_limit()
    sys.exit(worker.run(standalone.serve(_override(loaded, listen, admin, None), text, name, follow=watch)))


whom = click.option(
    "--admin",
    metavar="HOST:PORT",
    callback=_as(parse_admin),
    envvar="PASSERELLE_ADMIN",
    show_envvar=True,
    help="The admin address of the one to ask; by default that of the file in this folder, or 127.0.0.1:9900.",
)


@click.command()
@whom
@json_option
def status(admin: Address | str | None, as_json: bool) -> None:
    """Show what a running `passerelle up`, `proxy` or `gateway` does."""
    answer = request_admin(admin, "GET", "/status")
    if as_json:
        print_json(answer)
    else:
        _describe(answer)


@click.command(short_help="Have a running gateway read its file anew.")
@whom
@json_option
def reload(admin: Address | str | None, as_json: bool) -> None:
    """Have a running `passerelle up` or `gateway` read its file anew; a wrong file changes nothing.

    Nothing is interrupted: requests and connections under way go on, and the next ones go by the new file.
    """
    change(admin, "/reload", as_json)


@click.command(short_help="Give a service so many instances.")
@click.argument("wanted", metavar="SERVICE=N")
@whom
@json_option
def scale(wanted: str, admin: Address | str | None, as_json: bool) -> None:
    """Give a service of a running `passerelle up` so many instances, until the file says another number."""
    service, equals, number = wanted.partition("=")
    if not equals or not service or not number.isdecimal():
        raise click.UsageError(f"found {wanted!r}; allowed is SERVICE=N, such as user=8")
    change(admin, f"/scale?{urlencode({'service': service, 'instances': number})}", as_json)


@click.command(short_help="Replace the instances of a service, one at a time.")
@click.argument("service", metavar="SERVICE")
@whom
@json_option
def restart(service: str, admin: Address | str | None, as_json: bool) -> None:
    """Replace the instances of a service of a running `passerelle up`, one at a time.

    Each new one answers before an old one is drained and stopped.
    """
    change(admin, f"/restart?{urlencode({'service': service})}", as_json)


def change(
    admin: Address | str | None, path: str, as_json: bool, method: str = "POST", limit: float = CHANGE_LIMIT
) -> None:
    """Ask for a change, which takes ``limit`` seconds at most, and say what came of it."""
    answer = request_admin(admin, method, path, limit)
    if as_json:
        print_json(answer)
    elif "problems" not in answer:
        click.echo(answer["message"])
    if "problems" in answer:
        exit_refused(() if as_json else answer["problems"])


def exit_refused(problems: Iterable[str]) -> NoReturn:
    """Say why it is not done, and end the command."""
    for problem in problems:
        click.echo(problem, err=True)
    exit_negative()


def request_admin(admin: Address | str | None, method: str, path: str, limit: float = ANSWER_LIMIT) -> Any:
    """What the admin port answers within ``limit`` seconds. Ends the command when there is nobody to ask."""
    whence = ""
    if admin is None:
        admin, whence = _default_admin()
    if not isinstance(admin, Address):
        raise click.UsageError("with the admin address off there is nobody to ask")
    try:
        return _fetch(admin, method, path, limit)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
        text = f"no passerelle answers on the admin address {admin}{whence}: {why}"
        click.echo(f"{text}; is it running, or is --admin another?", err=True)
        exit_negative()


def _default_admin() -> tuple[Address | str, str]:
    """The admin address of the file in this folder, be it right or wrong, or else the default one; and whose it is."""
    for name in CONFIG_NAMES:
        with contextlib.suppress(OSError):
            admin = inspect(name, elsewhere=True).admin or "off"
            return admin, " (the default)" if admin == DEFAULT_ADMIN else f" (of {name})"
    return DEFAULT_ADMIN, " (the default)"


def _read(given: str | None, watch: bool) -> tuple[str, str, Config]:
    """The configuration's path, its text, what it says. Ends the command, with every error, if it cannot be used."""
    name = config_path(given)
    if watch and Path(name).exists() and not Path(name).is_file():
        raise click.UsageError(f"--watch needs a file, and {name} is none")
    try:
        # Once: the workers must get what is checked here, not what the file says a moment later.
        data = Path(name).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text, report = "", inspect(name)  # it knows how to say where
        else:
            report = inspect_text(text, name, folder=Path(name).parent)
    except OSError as error:
        raise click.UsageError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
    print_problems(report.warnings, "warning: ", err=True)
    if report.config is None:
        print_problems(report.errors, err=True)
        exit_negative()
    return name, text, report.config


def _override(config: Config, listen: Address | None, admin: Address | str | None, workers: int | None) -> Config:
    changes: dict[str, Any] = {}
    if listen is not None:
        changes["listen"] = listen
    if admin is not None:
        changes["admin"] = admin if isinstance(admin, Address) else None
    if workers is not None:
        changes["workers"] = workers
    return config.model_copy(update=changes)


def _supervise(setup: Setup) -> NoReturn:
    startup.reset_signals()
    reaper.fork_reaper()
    descriptors.raise_limit()
    output = Output(1)
    report = ConsoleReport(output, terminal=sys.stdout.isatty(), colour=wants_colour(sys.stdout), clock=time.monotonic)

    async def run() -> int:
        return await Supervisor(setup, report).run()

    try:
        code = asyncio.run(run())
    finally:
        output.close()
    sys.exit(code)


def _fetch(address: Address, method: str, path: str, limit: float) -> Any:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=limit)
    try:
        connection.request(method, path, headers={"Passerelle-Admin": "1"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    answer = orjson.loads(body) if response.headers.get_content_type() == "application/json" else None
    if answer is None or (response.status != 200 and "problems" not in answer):
        raise ValueError(f"it answers with {response.status} {response.reason}")
    return answer


def _describe(answer: dict[str, Any]) -> None:
    where = f"http://{answer['listen']} · pid {answer['pid']} · up for {seconds(answer['uptime'])}"
    click.echo(f"passerelle {answer['version']} · {answer['config']} · {answer['state']} · {where}\n")
    if answer["config_problems"]:
        problems = "".join(f"  {problem}\n" for problem in answer["config_problems"])
        click.echo(f"{answer['config']} as it is now is not in force:\n{problems}")
    members = [instance for service in answer["services"].values() for instance in service["instances"]]
    members += [{"address": answer["listen"], **worker} for worker in answer["workers"]]
    head = ("name", "state", "address", "pid", "restarts", "in flight", "uptime", "")
    print_table(head, [_columns(member) for member in members])
    for name, service in answer["services"].items():
        if service["breaker"]:
            told = ", ".join(f"{state} in {count}" for state, count in service["breaker"].items())
            click.echo(f"\nbreaker of {name}: {told} of {len(answer['workers'])} workers")
        if service["concurrency"]:
            seen = service["concurrency"]
            click.echo(f"\nlimit of {name}: {seen['running']} of {seen['limit']} run, {seen['waiting']} wait")
        if service["removed"]:
            click.echo(f"\nremoved from {name} at run time: {', '.join(service['removed'])}")


def _columns(member: dict[str, Any]) -> tuple[str, ...]:
    def cell(key: str) -> str:
        value = member.get(key)
        return "-" if value is None else str(value)

    uptime = member.get("uptime")
    note = member.get("problem") or (member.get("last_end") if member["state"] == "waiting" else None) or ""
    if not note and member.get("origin") == "added":
        note = "added at run time"
    return (
        member["name"],
        member["state"],
        cell("address"),
        cell("pid"),
        cell("restarts"),
        cell("in_flight"),
        "-" if uptime is None else seconds(uptime),
        note,
    )
