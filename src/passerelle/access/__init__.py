"""The guards' I/O: providers of keys, sessions and tokens, forward auth, the login and preflight handlers."""
