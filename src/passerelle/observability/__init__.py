"""What the gateway says of itself: metrics and the access log."""
