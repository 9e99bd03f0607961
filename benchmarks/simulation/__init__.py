"""Simulation of the balancing policies in simulated time, with fleets larger than one machine can run.

Only the servers, the network and the clock are simulated. Picking, counting, retrying and ejecting is the real code of
:mod:`passerelle.balancing`, which takes its clock and its random source as arguments. Run it with ``python -m
benchmarks.simulation``; ``docs/reference/balancing.md`` has the results.
"""
