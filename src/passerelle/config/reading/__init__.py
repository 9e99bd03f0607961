"""From text to a tree: YAML, environment variables, and the wording of its errors."""
