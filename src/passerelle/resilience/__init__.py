"""Decisions on load and failures: circuit breaker, retry budget, adaptive limit, admission queue, hedge delay.

The modules do no I/O.
"""
