"""Linux and sockets: prctl, /proc, ports, ``host:port``."""
