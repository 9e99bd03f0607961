"""The configuration as values: a model for each part of the file."""
