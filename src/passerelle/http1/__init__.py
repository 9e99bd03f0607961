"""HTTP/1.1 on the wire (RFC 9112): message heads and bodies, client connections, upstream connections."""
