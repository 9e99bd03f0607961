"""HTTP/1.1 on the wire (RFC 9112): heads, bodies, the listener's side and the upstreams' side."""
