"""A request to one service: pick an instance, send, retry, time out, hedge, limit."""
