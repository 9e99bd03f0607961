"""The dashboard: a page on the admin port, and the files that it loads. Nothing comes from another server."""
