"""Alembic's environment, the same for the three services; the configuration's section says which one."""

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
    """Leave the other services' tables out of what ``--autogenerate`` and ``check`` compare."""
    return kind != "table" or name in own_tables


def migrate(connection: Connection) -> None:
    """Run the migrations in the transaction that ``connection`` is in."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=is_own,
        # SQLite has transactional DDL too, once its driver is told not to begin transactions by itself.
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
