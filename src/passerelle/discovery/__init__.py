"""Service discovery: instances that are found at run time by DNS and in watched files."""
