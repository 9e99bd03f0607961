"""Every figure as JSON, the same as a Markdown table, and plots."""
