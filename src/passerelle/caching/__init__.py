"""The shared cache (RFC 9111): decisions as pure functions, stores behind one small contract."""
