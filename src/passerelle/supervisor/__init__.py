"""Starts, watches and stops gateway workers and service instances."""
