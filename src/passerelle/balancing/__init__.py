"""Choosing an instance: instances, policies, and groups of groups.

:mod:`.instance` holds what is known of one instance and its counters, :mod:`.policies` picks one, :mod:`.group` puts
nodes under nodes. Nothing here does I/O, reads a clock or waits.
"""
