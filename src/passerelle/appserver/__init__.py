"""The process of one service instance: a WSGI server of our own, or uvicorn."""
