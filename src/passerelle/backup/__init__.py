"""Backups of databases: consistent dumps, archives, verification by restoring, rotation, restoring."""
