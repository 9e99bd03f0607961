"""Migrate the shop's databases to their latest schema and fill empty ones: ``python -m shopkit.prepare [SERVICE…]``.

Run this once before the services start, never inside them: ten instances that start at once must not race to migrate.
Concurrent runs are safe: one run holds a lock, the other waits and then finds nothing to do. Migration and seed are one
transaction, so a run that is killed leaves the database unchanged. A database from a newer version of the shop is
refused, and so is a PostgreSQL server that has too few connections for the instances of the gateway.yaml.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Table, create_engine, event, func, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from shopkit import connections
from shopkit.catalogue import RESOURCES, USERS
from shopkit.resource import Resource
from shopkit.settings import SHOP, database_url, pool_size

SERVICES = tuple(RESOURCES)
USER_COUNT = 10_000
PRODUCT_COUNT = 1_000
LOCK_TIMEOUT = 60.0  # seconds
# Any number that no other program on the same PostgreSQL server uses as an advisory lock.
ADVISORY_LOCK = 0x73686F70


def alembic_config(service: str) -> Config:
    """Return the Alembic configuration of ``service``, the same as ``alembic -n SERVICE`` uses."""
    return Config(SHOP / "alembic.ini", ini_section=service)


def prepare(service: str, url: str, *, seeds: bool = True) -> int:
    """Migrate the database of ``service`` at ``url``, seed its empty tables, and return the number of rows added.

    Raises ValueError if a newer version of the shop has migrated the database.
    """
    with exclusive(make_url(url)) as connection:
        config = alembic_config(service)
        config.attributes["connection"] = connection
        _refuse_newer(connection, ScriptDirectory.from_config(config))
        command.upgrade(config, "head")
        return seed(service, connection) if seeds else 0


def _refuse_newer(connection: Connection, migrations: ScriptDirectory) -> None:
    known = {migration.revision for migration in migrations.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        last = ", ".join(migrations.get_heads())
        raise ValueError(
            f"the database has revision {', '.join(sorted(unknown))}, and the last that this version of the shop has is"
            f" {last}; nothing was changed: use the newer version"
        )


def check_connections(urls: Mapping[str, str], gateway: Path, machines: int = 1, instances: int | None = None) -> None:
    """Raise ValueError if a PostgreSQL server of ``urls`` has too few connections for the instances of ``gateway``."""
    servers: dict[tuple[str | None, int | None], dict[str, URL]] = {}
    for service, given in urls.items():
        url = make_url(given)
        if not _is_sqlite(url):
            servers.setdefault((url.host, url.port), {})[service] = url
    for (host, port), own in servers.items():
        wanted = connections.needs(connections.read_config(gateway), own, pool_size(), machines, instances)
        engine = create_engine(next(iter(own.values())))
        try:
            with engine.connect() as connection:
                found = connections.capacity(connection, [url.username or "" for url in own.values()])
        finally:
            engine.dispose()
        problem = connections.shortage(wanted, found)
        if problem is not None:
            raise ValueError(f"{host}:{port or 5432}: {problem}")


def seed(service: str, connection: Connection) -> int:
    """Fill the empty tables of ``service``: 10,000 users, 1,000 products. Return the number of rows added."""
    added = 0
    for resource in RESOURCES[service]:
        if connection.execute(select(resource.table.c.id).limit(1)).first() is None:
            added += _fill(connection, resource.table, seeds_of(resource))
    return added


def seeds_of(resource: Resource) -> list[dict[str, object]]:
    """Return the initial rows of a new shop. Product 1 costs 19.99, the others from 5.99 to 103.99."""
    if resource is USERS:
        return [{"id": n, "username": f"user_{n}", "email": f"user_{n}@example.com"} for n in range(1, USER_COUNT + 1)]
    prices = {n: (599 + 1400 * n % 10_000) / 100 for n in range(1, PRODUCT_COUNT + 1)}
    return [{"id": n, "name": f"Produit_{n}", "price": price} for n, price in prices.items()]


def _fill(connection: Connection, table: Table, rows: Sequence[dict[str, object]]) -> int:
    connection.execute(insert(table), rows)
    if connection.dialect.name == "postgresql":
        # The rows have explicit ids, which did not advance the sequence.
        sequence = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(sequence, len(rows))))
    return len(rows)


@contextmanager
def exclusive(url: URL) -> Iterator[Connection]:
    """Open a connection to ``url`` in a transaction that excludes all other runs of this program.

    Raises TimeoutError if another run holds the lock for longer than ``LOCK_TIMEOUT``.
    """
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT} if _is_sqlite(url) else {})
    try:
        if _is_sqlite(url):
            path = Path(url.database or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            # The driver begins transactions late, and not for CREATE TABLE, so they are begun explicitly here.
            event.listen(engine, "connect", _start_no_transaction)
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
            with _file_lock(path.with_suffix(".lock")), engine.begin() as connection:
                yield connection
        else:
            with engine.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT:.0f}s'"))
                # Released at the end of the transaction, also if this process dies.
                connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
                yield connection
    finally:
        engine.dispose()


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _start_no_transaction(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the kernel releases it if this process dies. The file is not removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another run has held {path} for over {LOCK_TIMEOUT:.0f} s") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the named services (default: all three); return 0, or 1 if a database could not be prepared."""
    parser = argparse.ArgumentParser(prog="shopkit.prepare", description="Migrate and seed the shop's databases.")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"one of {', '.join(SERVICES)} (default: all)")
    parser.add_argument("--no-seed", action="store_true", help="migrate only")
    connections.add_options(parser)
    options = parser.parse_args(arguments)
    services = options.services or list(SERVICES)
    unknown = [service for service in services if service not in SERVICES]
    if unknown:
        parser.error(f"unknown service {unknown[0]!r}: there are {', '.join(SERVICES)}")
    urls = {service: database_url(service) for service in services}
    if len(set(urls.values())) < len(services):
        names = ", ".join(f"{service.upper()}_DATABASE_URL" for service in services)
        parser.error(f"DATABASE_URL names one database and each service has its own: set {names}")
    for service, url in urls.items():
        started = time.monotonic()
        try:
            added = prepare(service, url, seeds=not options.no_seed)
        except (SQLAlchemyError, OSError, ValueError) as error:
            print(f"{service}: {getattr(error, 'orig', None) or error}".strip(), file=sys.stderr)
            return 1
        where = make_url(url).render_as_string(hide_password=True)
        print(f"{service}: ready, {added} rows added in {time.monotonic() - started:.1f} s ({where})")
    try:
        check_connections(urls, options.gateway, options.machines, options.instances)
    except (SQLAlchemyError, ValueError) as error:
        print(f"{getattr(error, 'orig', None) or error}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
