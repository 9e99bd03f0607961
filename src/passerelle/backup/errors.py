"""The error of backups."""

from __future__ import annotations


class BackupError(Exception):
    """A backup cannot be made, read, verified or restored. The text states why, on one line."""
