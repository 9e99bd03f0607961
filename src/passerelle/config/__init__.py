"""The configuration file: models, loader and checks."""
