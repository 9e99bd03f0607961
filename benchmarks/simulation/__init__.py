"""The balancing policies in fleets that no single machine can run, in simulated time.

What is simulated is the servers, the network and the clock. What picks, counts, retries and ejects is the very code of
:mod:`passerelle.balancing`: it takes its clock and its chance as arguments, so it cannot tell the difference.
``python -m benchmarks.simulation`` runs it; ``docs/reference/balancing.md`` has the results.
"""
