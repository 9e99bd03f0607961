"""From measurements to the bottleneck: pure functions over the samples of the live view."""
