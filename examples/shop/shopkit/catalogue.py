"""What the shop keeps: its two tables, and what a client may write into them.

The monolith mounts both on one database; the users and products services mount one each on their own.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, Numeric, String, Table, UniqueConstraint

from shopkit import fields
from shopkit.resource import Resource

metadata = MetaData()
# SQLite counts rows only in a column declared INTEGER. It never gives a deleted id away again with AUTOINCREMENT:
# a cache may still hold the old one.
identity = BigInteger().with_variant(Integer, "sqlite")

users = Table(
    "users",
    metadata,
    Column("id", identity, primary_key=True),
    Column("username", String(64), nullable=False),
    Column("email", String(254), nullable=False),
    # Neither is part of what a client reads or writes: see shopkit/accounts.py.
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
    # Exact in the database, a float in Python: JSON has no other number, and ten digits survive it.
    Column("price", Numeric(10, 2, asdecimal=False), nullable=False),
    sqlite_autoincrement=True,
)

USERS = Resource("user", users, {"username": fields.username, "email": fields.email})
PRODUCTS = Resource("product", products, {"name": fields.name, "price": fields.price}, {"price": float})

# service -> what its own database holds
RESOURCES = {"users": (USERS,), "products": (PRODUCTS,), "monolith": (USERS, PRODUCTS)}
