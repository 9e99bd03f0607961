"""Resource of the shop: a table, the fields that a client may write, and the JSON representation.

Statements are SQLAlchemy Core with bound parameters only; rows are never turned into ORM entities, which would cost
more than the query itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Connection,
    Delete,
    Engine,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from shopkit.database import lookup
from shopkit.paging import Page, number
from shopkit.problems import Problem

if TYPE_CHECKING:
    from shopkit.aside import Aside


@dataclass(frozen=True)
class Resource:
    """One type of resource. ``name`` is the path (``/user``) and part of the id's member in JSON (``user_id``).

    ``fields`` are the writable columns with their validators, in the order of the JSON members; ``present`` converts
    the values of some columns for JSON.
    """

    name: str
    table: Table
    fields: Mapping[str, Callable[[object], object]]
    present: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)

    # Built once: building a statement costs several times as much as running it.
    @cached_property
    def _columns(self) -> Select[Any]:
        return select(self.table.c.id, *(self.table.c[column] for column in self.fields))

    @cached_property
    def _by_id(self) -> Any:
        return self.table.c.id == bindparam("identity")

    @cached_property
    def _page(self) -> Select[Any]:
        after = self.table.c.id > bindparam("after")
        return self._columns.where(after).order_by(self.table.c.id).limit(bindparam("limit"))

    @cached_property
    def _insert(self) -> Insert:
        return insert(self.table)

    @cached_property
    def _update(self) -> Update:
        return update(self.table).where(self._by_id)

    @cached_property
    def _delete(self) -> Delete:
        return delete(self.table).where(self._by_id)

    def document(self, identity: int, values: Iterable[Any]) -> dict[str, object]:
        """Return the JSON object of one row, given its ``values`` in the order of ``fields``.

        Ids are strings: JSON numbers lose digits above 2**53.
        """
        document: dict[str, object] = {f"{self.name}_id": str(identity)}
        for column, value in zip(self.fields, values, strict=True):
            document[column] = self.present[column](value) if column in self.present else value
        return document

    def finder(self, engine: Engine, aside: Aside | None = None) -> Callable[[str], dict[str, object]]:
        """Return a function that reads the document with the given id, or raises 404: the hot path."""
        first = lookup(engine, self._columns.where(self._by_id))
        members = (f"{self.name}_id", *self.fields)

        def load(identity: int) -> dict[str, object] | None:
            row = first({"identity": identity})
            return None if row is None else self.document(row[0], row[1:])

        def cached(identity: int) -> dict[str, object] | None:
            assert aside is not None
            return aside.read(
                self.key(identity),
                lambda: load(identity),
                lambda found: tuple(found) == members and found[members[0]] == str(identity),
            )

        read = load if aside is None else cached

        def find(text: str) -> dict[str, object]:
            document = read(self._identity(text))
            if document is None:
                raise self._missing(text)
            return document

        return find

    def key(self, identity: int | str) -> str:
        """Return the Redis key of the document."""
        return f"shop:{self.name}:{identity}"

    def list(self, connection: Connection, page: Page) -> tuple[list[dict[str, object]], str | None]:
        """Return the documents of ``page`` in the order of their ids, and the id to continue after if there are
        more."""
        # One additional row shows whether there is a next page.
        rows = connection.execute(self._page, {"after": page.after, "limit": page.limit + 1}).all()
        documents = [self.document(row[0], row[1:]) for row in rows[: page.limit]]
        return documents, str(rows[page.limit - 1][0]) if len(rows) > page.limit else None

    def create(self, connection: Connection, body: object) -> tuple[str, dict[str, object]]:
        """Insert ``body``; return its id and document. Raise 422 if it is invalid, 409 if a unique value is taken."""
        values = self._validate(body)
        key = self._write(connection, self._insert, values).inserted_primary_key
        assert key is not None
        return str(key[0]), self.document(key[0], values.values())

    def replace(self, connection: Connection, text: str, body: object) -> dict[str, object]:
        """Replace the row with id ``text``; return its document. Raise 404, 422 or 409."""
        identity = self._identity(text)
        values = self._validate(body)
        if self._write(connection, self._update, {"identity": identity, **values}).rowcount == 0:
            raise self._missing(text)
        return self.document(identity, values.values())

    def remove(self, connection: Connection, text: str) -> None:
        """Delete the row with id ``text``; raise 404 if there is none."""
        if connection.execute(self._delete, {"identity": self._identity(text)}).rowcount == 0:
            raise self._missing(text)

    def _missing(self, text: str) -> Problem:
        return Problem(404, f"There is no {self.name} {text[:40]!r}.")

    def _identity(self, text: str) -> int:
        identity = number(text)
        if identity is None:
            raise self._missing(text)
        return identity

    def _validate(self, body: object) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise Problem(422, "The body must be a JSON object.")
        errors = [(f"/{key}", "is not a known member") for key in body if key not in self.fields]
        values = {}
        for column, check in self.fields.items():
            if column not in body:
                errors.append((f"/{column}", "is required"))
                continue
            try:
                values[column] = check(body[column])
            except ValueError as error:
                errors.append((f"/{column}", str(error)))
        if errors:
            raise Problem(422, "The body is not valid.", errors)
        return values

    def _write(self, connection: Connection, statement: Insert | Update, values: dict[str, Any]) -> Any:
        try:
            return connection.execute(statement, values)
        except IntegrityError as error:
            reason = str(error.orig)
            for column in self.fields:
                # SQLite names the column, PostgreSQL the constraint.
                if f"{self.table.name}.{column}" in reason or f"uq_{self.table.name}_{column}" in reason:
                    raise Problem(409, f"This {column} is taken.", [(f"/{column}", "is taken")]) from None
            raise
