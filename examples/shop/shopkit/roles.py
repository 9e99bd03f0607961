"""Create the role and the database of each service on a PostgreSQL server: ``python -m shopkit.roles [SERVICE…]``.

``ADMIN_DATABASE_URL`` is that of a superuser. The names and passwords are those of ``USERS_DATABASE_URL`` and so on. A
role reaches its own database alone, and opens no more connections than the instances of the gateway.yaml need. A second
run applies what has changed: a password, the number of instances.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import psycopg
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from shopkit import connections
from shopkit.catalogue import RESOURCES
from shopkit.connections import Need
from shopkit.prepare import ADVISORY_LOCK
from shopkit.settings import database_url, pool_size, with_driver


def create(connection: psycopg.Connection, url: URL, need: Need) -> None:
    """Create or update the role and the database that ``url`` names.

    Raises ValueError if the role is a superuser, or the database belongs to another role.
    """
    assert url.username and url.database
    role, database = sql.Identifier(url.username), sql.Identifier(url.database)
    known = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [url.username]).fetchone()
    if known is not None and known[0]:
        raise ValueError(f"the role {url.username} is a superuser, who reaches every database; name a role of its own")
    owner = connection.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [url.database]
    ).fetchone()
    if owner is not None and owner[0] != url.username:
        raise ValueError(f"the database {url.database} belongs to the role {owner[0]}, not to {url.username}")
    verb = sql.SQL("CREATE" if known is None else "ALTER")
    options = sql.SQL("LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT {} PASSWORD {}").format(
        sql.Literal(need.total), _verifier(connection, url)
    )
    connection.execute(sql.SQL("{} ROLE {} {}").format(verb, role, options))
    if owner is None:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    # By default every role may connect to every database.
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def _verifier(connection: psycopg.Connection, url: URL) -> sql.Composable:
    """Return the SCRAM verifier of the password, so that the password itself is in no log of the server."""
    if not url.password:
        return sql.SQL("NULL")
    assert url.username
    text = connection.pgconn.encrypt_password(str(url.password).encode(), url.username.encode(), b"scram-sha-256")
    return sql.Literal(text.decode())


def urls_of(services: Sequence[str]) -> dict[str, URL]:
    """Return the URL of each service's database; raise ValueError unless each names a role and a database of its own.

    Without ``services``, it is every service whose variable is set.
    """
    chosen = services or [name for name in RESOURCES if os.environ.get(f"{name.upper()}_DATABASE_URL")]
    if not chosen:
        raise ValueError("set USERS_DATABASE_URL and PRODUCTS_DATABASE_URL to the databases of the services")
    found = {service: make_url(database_url(service)) for service in chosen}
    for service, url in found.items():
        if url.get_backend_name() != "postgresql" or not url.username or not url.database:
            raise ValueError(f"{service.upper()}_DATABASE_URL must be postgresql://role:password@host/database")
    for what in ("username", "database"):
        if len({getattr(url, what) for url in found.values()}) < len(found):
            names = ", ".join(f"{service.upper()}_DATABASE_URL" for service in found)
            raise ValueError(f"{names} name one {'role' if what == 'username' else what}; each needs its own")
    return found


def apply(admin: str, urls: dict[str, URL], wanted: Sequence[Need]) -> None:
    """Create the roles and databases of ``urls``, or raise ValueError if the server has too few connections."""
    engine = create_engine(with_driver(admin), isolation_level="AUTOCOMMIT")  # CREATE DATABASE is in no transaction
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            roles = [url.username or "" for url in urls.values()]
            problem = connections.shortage(wanted, connections.capacity(connection, roles))
            if problem is not None:
                raise ValueError(problem)
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            for need in wanted:
                create(driver, urls[need.service], need)
    finally:
        engine.dispose()


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the roles and databases; return 0, or 1 on failure."""
    parser = argparse.ArgumentParser(prog="shopkit.roles", description="Create roles and databases in PostgreSQL.")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="by default all that have a variable")
    connections.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        admin = os.environ.get("ADMIN_DATABASE_URL")
        if not admin:
            raise ValueError(
                "set ADMIN_DATABASE_URL to the URL of a superuser, such as postgresql://postgres@db/postgres"
            )
        urls = urls_of(options.services)
        config = connections.read_config(options.gateway)
        wanted = connections.needs(config, urls, pool_size(), options.machines, options.instances)
        missing = urls.keys() - {need.service for need in wanted}
        if missing:
            raise ValueError(f"{options.gateway} runs no instances of {', '.join(sorted(missing))}")
        apply(admin, urls, wanted)
    except (ValueError, SQLAlchemyError, psycopg.Error, OSError) as error:
        print(f"{getattr(error, 'orig', None) or error}".strip(), file=sys.stderr)
        return 1
    for need in wanted:
        url = urls[need.service]
        print(f"{need.service}: role {url.username}, database {url.database}, at most {need.total} connections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
