"""From configuration to plans: the only place that turns keys of the file into objects."""
