"""Validation of the fields that a client may write: one function per field, raising ``ValueError`` with the reason."""

from __future__ import annotations

import re
from decimal import Decimal

EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")
EMAIL_LENGTH = 254  # characters; RFC 5321, section 4.5.3.1.3, without the angle brackets
USERNAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NAME_LENGTH = 200  # characters
MOST = 99_999_999.99  # Numeric(10, 2)


def username(value: object) -> str:
    """Accept 1 to 64 ASCII letters, digits, ``_``, ``.`` and ``-``."""
    if not isinstance(value, str) or not USERNAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '_', '.' or '-'")
    return value


def email(value: object) -> str:
    """Accept an e-mail address; return it in lower case, so that one mailbox is one user."""
    lowered = value.lower() if isinstance(value, str) else ""
    if len(lowered) > EMAIL_LENGTH or not EMAIL.fullmatch(lowered):
        raise ValueError("must be an e-mail address")
    return lowered


def name(value: object) -> str:
    """Accept 1 to 200 printable characters that are not all spaces (excluding NUL, which PostgreSQL cannot store)."""
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_LENGTH or not value.isprintable():
        raise ValueError(f"must be 1 to {NAME_LENGTH} printable characters")
    return value


def price(value: object) -> Decimal:
    """Accept a JSON number from 0 to 99,999,999.99 with at most two decimals."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    if 0 <= value <= MOST:
        # The shortest representation of a float is what the client wrote, up to 15 digits; a price has ten. -0 becomes
        # 0.
        amount = Decimal(repr(abs(value)))
        if amount == round(amount, 2):
            return amount
    raise ValueError(f"must be from 0 to {MOST} with at most two decimals")
