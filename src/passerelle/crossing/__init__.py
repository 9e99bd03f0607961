"""The crossing from an old service to a new one: comparisons of responses, verdicts, rollouts. No I/O, no clock."""
