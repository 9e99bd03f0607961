"""The packages of the shop on the path."""

from tests.examples.conftest import SHOP

__all__ = ["SHOP"]
