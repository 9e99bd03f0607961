"""Add passwords (argon2id) and roles of users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("users", sa.Column("password", sa.String(255), nullable=True))
    op.add_column("users", sa.Column("role", sa.String(16), nullable=False, server_default="customer"))


def downgrade() -> None:
    op.drop_column("users", "role")
    op.drop_column("users", "password")
