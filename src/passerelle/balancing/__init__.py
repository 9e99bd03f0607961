"""Load balancing: instances, policies, groups, and health.

:mod:`.instance` has an instance with its counters, :mod:`.policies` picks one, :mod:`.group` combines nodes into a
tree. The modules do no I/O and never wait. Clocks are passed in.
"""
