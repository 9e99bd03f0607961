"""How fast passerelle is, beside its peers: ``python -m benchmarks`` (see ``docs/benchmarks.md``)."""
