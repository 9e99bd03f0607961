"""Data of the shop: its two tables, and the fields that a client may write.

The monolith mounts both on one database; the users and products services mount one each on their own.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, Numeric, String, Table, UniqueConstraint

from shopkit import fields
from shopkit.resource import Resource

metadata = MetaData()
# SQLite generates ids only in a column declared INTEGER. With AUTOINCREMENT it never reuses a deleted id, which a cache
# may still hold.
identity = BigInteger().with_variant(Integer, "sqlite")

users = Table(
    "users",
    metadata,
    Column("id", identity, primary_key=True),
    Column("username", String(64), nullable=False),
    Column("email", String(254), nullable=False),
    # Clients can neither read nor write these two: see shopkit/accounts.py.
    Column("password", String(255)),
    Column("role", String(16), nullable=False, server_default="customer"),
    UniqueConstraint("username", name="uq_users_username"),
    UniqueConstraint("email", name="uq_users_email"),
    sqlite_autoincrement=True,
)
products = Table(
    "products",
    metadata,
    Column("id", identity, primary_key=True),
    Column("name", String(200), nullable=False),
    # Exact in the database, a float in Python: JSON has no decimal numbers, and a float represents ten digits exactly.
    Column("price", Numeric(10, 2, asdecimal=False), nullable=False),
    sqlite_autoincrement=True,
)

USERS = Resource("user", users, {"username": fields.username, "email": fields.email})
PRODUCTS = Resource("product", products, {"name": fields.name, "price": fields.price}, {"price": float})

# service -> the resources in its database
RESOURCES = {"users": (USERS,), "products": (PRODUCTS,), "monolith": (USERS, PRODUCTS)}
