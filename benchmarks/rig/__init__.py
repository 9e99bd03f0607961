"""Starting, pinning, loading and accounting for servers; it knows neither peers nor scenarios."""
