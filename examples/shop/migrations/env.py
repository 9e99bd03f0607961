"""Alembic environment, shared by the three services; the section of the configuration selects the service."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from shopkit.catalogue import RESOURCES, metadata
from shopkit.prepare import exclusive
from shopkit.settings import database_url

service = context.config.config_ini_section
own_tables = {str(resource.table.name) for resource in RESOURCES[service]}


def is_own(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
    """Exclude the other services' tables from the comparison by ``--autogenerate`` and ``check``."""
    return kind != "table" or name in own_tables


def migrate(connection: Connection) -> None:
    """Run the migrations in the current transaction of ``connection``."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=is_own,
        # SQLite has transactional DDL too, once its driver no longer begins transactions automatically.
        transactional_ddl=True,
        # SQLite cannot alter a constraint: Alembic copies the table instead.
        render_as_batch=True,
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(url=database_url(service), target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif given is not None:
    migrate(given)
else:
    with exclusive(make_url(database_url(service))) as own:
        migrate(own)
