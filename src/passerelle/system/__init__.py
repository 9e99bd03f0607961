"""Linux process control and sockets: prctl, /proc, ports, ``host:port``."""
