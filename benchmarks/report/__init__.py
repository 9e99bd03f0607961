"""Reports: all figures as JSON, the same figures as Markdown tables, and plots."""
