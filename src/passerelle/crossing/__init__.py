"""The crossing from an old service to a new one: comparisons of their responses, and verdicts, without I/O and clock."""
