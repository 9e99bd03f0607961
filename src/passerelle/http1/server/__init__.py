"""Client side of HTTP/1.1: the listener, its connections, their responses and timeouts."""
