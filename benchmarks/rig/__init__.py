"""Rig: starts, pins, loads and accounts for servers, without knowledge of peers or scenarios."""
