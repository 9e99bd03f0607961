"""``passerelle restore``: restore databases from a backup."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from passerelle.cli.backup import config_option, databases_of, found_archive, key_of, key_option, reported, to_option
from passerelle.cli.support import json_option, print_json, read_config


@click.command(short_help="Restore databases from a backup.")
@click.argument("archive", metavar="BACKUP")
@config_option
@to_option
@key_option
@click.option("--only", multiple=True, metavar="NAME", help="Only this database; may be given several times.")
@click.option("--to-scratch", is_flag=True, help="Restore to new databases beside the present ones, and stop there.")
@click.option("--yes", is_flag=True, help="Replace databases that exist; their content is kept beside them.")
@json_option
def restore(
    archive: str,
    config: str | None,
    to: str | None,
    key_file: Path | None,
    only: tuple[str, ...],
    to_scratch: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Restore databases from a backup.

    BACKUP is a name of `backup list`, a path or an address. Each database is restored beside the present one and
    compared with the manifest. Then they change places, and the former content is kept.

    \b
    Examples:
      passerelle restore gateway-20261130T030000Z.tar.gz --to-scratch
      passerelle restore gateway-20261130T030000Z.tar.gz --only users --yes
    """
    from passerelle.backup.run import restore_backup

    if yes and to_scratch:
        raise click.UsageError("--yes has no effect with --to-scratch")
    with reported():
        read = read_config(config)
        databases = databases_of(read)
        names = [database.name for database in databases]
        for name in only:
            if name not in names:
                raise click.UsageError(f"--only: found {name!r}; allowed: {', '.join(names)}")
        databases = [database for database in databases if not only or database.name in only]
        storage, name = found_archive(read, to, archive)
        done = restore_backup(
            databases, storage, name, key_of(read, key_file), datetime.now(UTC), replace=yes, beside=to_scratch
        )
    if as_json:
        print_json(
            [
                {"name": part.name, "place": found.place, "kept": found.kept or None, "note": found.note or None}
                for part, found in done
            ]
        )
        return
    for part, found in done:
        click.echo(f"{part.name}: restored {part.rows} rows to {found.place}")
        if found.kept:
            click.echo(f"{part.name}: the former content is in {found.kept}")
        if found.note:
            click.echo(f"{part.name}: {found.note}")
