"""The process of one service instance: the built-in WSGI server, or uvicorn."""
