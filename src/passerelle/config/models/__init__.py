"""The models of the configuration, one for each mapping of the file."""
