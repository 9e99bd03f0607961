"""HTTP semantics without I/O: messages, header fields, content codings."""
