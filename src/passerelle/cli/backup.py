"""``passerelle backup``: make, list and verify backups."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode

import click

from passerelle.cli.support import (
    Commands,
    config_argument,
    config_path,
    exit_negative,
    json_option,
    print_json,
    print_table,
    read_config,
)

if TYPE_CHECKING:
    from passerelle.backup.databases import Database
    from passerelle.backup.encryption import Key
    from passerelle.backup.manifest import Manifest
    from passerelle.backup.rotation import Keep
    from passerelle.backup.storage import Storage
    from passerelle.config.models.backup import S3, Backup
    from passerelle.config.models.config import Config

_MOST_TEXT = 500  # characters of an event
_TERMINATED = 143  # 128 + SIGTERM, as shells report it
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class _Backup(Commands):
    """A group whose first command needs no name: ``backup CONFIG`` is ``backup run CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add the name of the first command if there is none."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Backup, short_help="Back up databases, verify and list backups.")
def backup() -> None:
    """Back up the API keys and sessions of the gateway, and the databases of the configuration, while they are in use.

    \b
    Examples:
      passerelle backup gateway.yaml --to /var/backups/shop
      passerelle backup list
      passerelle backup verify
    """


class _Rule(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keep:
        from passerelle.backup.rotation import Keep

        found: dict[str, int] = {}
        for item in str(value).split(","):
            name, _, number = item.strip().partition("=")
            if name not in ("daily", "weekly", "monthly") or name in found or not number.isdecimal():
                self.fail(f"found {value!r}; allowed is a rule such as daily=7,weekly=4,monthly=12", param, ctx)
            found[name] = int(number)
        if not any(found.values()):
            self.fail(f"found {value!r}, which keeps nothing", param, ctx)
        return Keep(**found)


to_option = click.option(
    "--to", metavar="TARGET", help="A folder, or s3://bucket/prefix; by default `backup.to` of the configuration."
)
key_option = click.option(
    "--key-file", metavar="FILE", type=click.Path(path_type=Path), help="The key; by default `backup.key_file`."
)
config_option = click.option("-c", "--config", metavar="CONFIG", help="The configuration file.")


@backup.command("run", short_help="Make a backup (the default command).")
@config_argument
@to_option
@key_option
@click.option("--keep", type=_Rule(), metavar="RULE", help="Which backups to keep; by default `backup.keep`.")
@click.option("--no-verify", is_flag=True, help="Do not restore the backup to verify it; nothing is deleted then.")
@json_option
def run_backup(
    config: str | None, to: str | None, key_file: Path | None, keep: Keep | None, no_verify: bool, as_json: bool
) -> None:
    """Back up all databases to one archive, restore it to scratch databases to verify it, and delete old backups.

    An archive that could not be verified is not kept.

    \b
    Examples:
      passerelle backup gateway.yaml --to /var/backups/shop --keep daily=7,weekly=4,monthly=12
      passerelle backup --to s3://backups/shop --key-file backup.pub
    """
    from passerelle import __version__
    from passerelle.backup.run import make_backup

    with reported():
        read = read_config(config)
        databases = databases_of(read)
        if not databases:
            raise click.UsageError("there is nothing to back up: add backup: {databases: {NAME: PATH}} to the file")
        with _recorded(read) as outcome:
            made = make_backup(
                databases,
                storage_of(read, to),
                prefix_of(config),
                datetime.now(UTC),
                f"passerelle {__version__}",
                key=key_of(read, key_file),
                keep=keep or _rule(read),
                verify=not no_verify,
            )
            names = ", ".join(part.name for part in made.manifest.parts)
            outcome.append(f"{made.name} ({size_text(made.size)}) of {names}{' was verified' if made.verified else ''}")
    if as_json:
        found = {"name": made.name, "size": made.size, "verified": made.verified, "deleted": list(made.deleted)}
        print_json({**found, **_described(made.manifest)})
        return
    _print_parts(made.manifest)
    click.echo(f"wrote {made.name} ({size_text(made.size)}), {'verified' if made.verified else 'not verified'}")
    for name in made.deleted:
        click.echo(f"deleted {name}")


@backup.command("list", short_help="List the backups.")
@config_option
@to_option
@json_option
def list_backups(config: str | None, to: str | None, as_json: bool) -> None:
    """List the backups of the target, the oldest first."""
    with reported():
        archives = storage_of(read_config(config), to).archives()
    if as_json:
        print_json(
            [
                {"name": each.name, "time": each.time.isoformat(), "size": each.size, "encrypted": each.is_encrypted}
                for each in archives
            ]
        )
        return
    rows = [
        (each.name, f"{each.time:%Y-%m-%d %H:%M:%S} UTC", size_text(each.size), "yes" if each.is_encrypted else "no")
        for each in archives
    ]
    print_table(("NAME", "TIME", "SIZE", "ENCRYPTED"), rows)


@backup.command("verify", short_help="Verify a backup by restoring it to scratch databases.")
@click.argument("archive", metavar="[BACKUP]", required=False)
@config_option
@to_option
@key_option
@json_option
def verify(archive: str | None, config: str | None, to: str | None, key_file: Path | None, as_json: bool) -> None:
    """Restore a backup to scratch databases and compare them with its manifest.

    BACKUP is a name of `backup list`, a path or an address; by default the newest backup of CONFIG.
    """
    from passerelle.backup.run import newest, verify_backup

    with reported():
        read = read_config(config)
        storage, name = found_archive(read, to, archive)
        name = name or newest(storage.archives(), prefix_of(config)).name
        manifest = verify_backup(databases_of(read), storage, name, key_of(read, key_file))
    if as_json:
        print_json({"name": name, "verified": True, **_described(manifest)})
        return
    _print_parts(manifest)
    click.echo(f"{name}: verified")


@backup.command("key", short_help="Create a key for encrypted backups.")
@click.argument("file", type=click.Path(path_type=Path))
def create(file: Path) -> None:
    """Create a secret key in FILE and print its public key.

    A key file with the public key alone is sufficient to make backups. Keep the secret key elsewhere: without it,
    backups cannot be read.
    """
    from passerelle.backup.encryption import create_key

    with reported():
        try:
            public = create_key(file, datetime.now(UTC))
        except OSError as error:
            _fail(f"cannot write {file}: {(error.strerror or str(error)).lower()}")
    click.echo(public)


@contextmanager
def reported() -> Iterator[None]:
    """Report errors of backups on one line, with the exit code 1. SIGTERM ends the command, which tidies up first."""
    from passerelle.backup.errors import BackupError

    def end(number: int, _frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # nothing interrupts the tidying up
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BackupError as error:
        _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{(error.strerror or str(error)).lower()}")
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _recorded(config: Config) -> Iterator[list[str]]:
    """Record the outcome of a backup as an event of the running gateway, if there is one.

    The body appends a text when it succeeds.
    """
    texts: list[str] = []
    try:
        yield texts
    except (Exception, SystemExit) as error:
        reason = "it was stopped" if isinstance(error, SystemExit) else str(error)
        _record(config, "failed", reason)
        raise
    _record(config, "done", texts[0])


def _record(config: Config, outcome: str, text: str) -> None:
    from passerelle.cli.admin_client import Destination, connect

    if config.admin is None:
        return
    query = urlencode({"outcome": outcome, "text": text[:_MOST_TEXT]})
    with suppress(OSError, HTTPException):  # a backup needs no gateway that runs
        connection = connect(Destination(config.admin.listen, config.admin.token), "POST", f"/backup?{query}", 2.0)
        with closing(connection):
            connection.getresponse().read()


def _fail(reason: str) -> NoReturn:
    click.echo(f"failed: {reason}", err=True)
    exit_negative()


def databases_of(config: Config) -> list[Database]:
    """Return the stores of the gateway, and the databases of the configuration."""
    from passerelle.backup.postgresql import PostgresDatabase
    from passerelle.backup.redis_store import RedisStore
    from passerelle.backup.sqlite import SqliteDatabase

    found: list[Database] = []
    for name, store in config.stores.items():
        if isinstance(store, Path):
            found.append(SqliteDatabase(name, store))
        elif config.redis is not None:
            found.append(RedisStore(name, config.redis.url))
    settings = _settings(config)
    for name, place in settings.databases.items():
        if isinstance(place, Path):
            found.append(SqliteDatabase(name, place))
        else:
            found.append(PostgresDatabase(name, place, settings.scratch))
    return found


def storage_of(config: Config, to: str | None) -> Storage:
    """Return the target: ``to``, or that of the configuration."""
    from pydantic import TypeAdapter, ValidationError

    from passerelle.config.models.backup import BackupTarget

    settings = _settings(config)
    target = settings.to
    if to is not None:
        adapter: TypeAdapter[Any] = TypeAdapter(BackupTarget)
        try:
            target = adapter.validate_python(to, context={"folder": "."})
        except ValidationError as error:
            raise click.UsageError(f"--to: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    if target is None:
        raise click.UsageError("there is no target: give --to, or add backup: {to: FOLDER} to the file")
    return _storage(target, settings.s3)


def _storage(target: Any, s3: S3 | None) -> Storage:
    from passerelle.backup.storage import FolderStorage

    if isinstance(target, Path):
        return FolderStorage(target)
    from passerelle.backup.s3 import Bucket, S3Storage

    if s3 is None:
        return S3Storage(Bucket(target.bucket, target.prefix))
    return S3Storage(Bucket(target.bucket, target.prefix, s3.endpoint, s3.region, s3.access_key, s3.secret_key))


def found_archive(config: Config, to: str | None, archive: str | None) -> tuple[Storage, str]:
    """Return the storage and the name of a backup, given as a name, a path or an address; '' if it is not given."""
    if archive is None or "/" not in archive:
        if archive is not None and to is None and Path(archive).is_file():
            return storage_of(config, "."), archive
        return storage_of(config, to), archive or ""
    folder, _, name = archive.rpartition("/")
    return storage_of(config, folder or "/"), name


def key_of(config: Config, key_file: Path | None) -> Key | None:
    """Return the key of ``key_file``, or of the configuration; None if there is none."""
    from passerelle.backup.encryption import read_key

    path = key_file or _settings(config).key_file
    return None if path is None else read_key(path)


def prefix_of(given: str | None) -> str:
    """Return what the names of backups begin with: the name of the configuration."""
    return Path(config_path(given)).stem


def _settings(config: Config) -> Backup:
    from passerelle.config.models.backup import Backup

    return config.backup or Backup()


def _rule(config: Config) -> Keep | None:
    from passerelle.backup.rotation import Keep

    found = _settings(config).keep
    return None if found is None else Keep(found.daily, found.weekly, found.monthly)


def _described(manifest: Manifest) -> dict[str, object]:
    parts = [
        {
            "name": part.name,
            "engine": part.engine,
            "version": part.version,
            "size": part.size,
            "rows": part.rows,
            "tables": {name: table.rows for name, table in part.tables.items()},
        }
        for part in manifest.parts
    ]
    return {"time": manifest.time.isoformat(), "program": manifest.program, "databases": parts}


def _print_parts(manifest: Manifest) -> None:
    rows = [
        (part.name, f"{part.engine} {part.version}", str(len(part.tables)), str(part.rows), size_text(part.size))
        for part in manifest.parts
    ]
    print_table(("DATABASE", "ENGINE", "TABLES", "ROWS", "SIZE"), rows)


def size_text(size: float) -> str:
    """Format a number of bytes for people: ``3.1 MiB``."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
