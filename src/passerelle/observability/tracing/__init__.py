"""Traces: W3C Trace Context, the spans of requests, and their export over OTLP."""
