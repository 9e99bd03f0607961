"""Instances that are found at run time: by DNS, and in files that are watched."""
