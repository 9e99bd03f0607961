"""Scenarios: one module for each."""
