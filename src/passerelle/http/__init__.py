"""What HTTP means: messages, header fields, content codings; no I/O."""
