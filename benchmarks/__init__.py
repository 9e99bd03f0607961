"""Performance of passerelle compared with its peers: ``python -m benchmarks`` (see ``docs/benchmarks.md``)."""
