"""Where the bytes of messages are, and how the objects that callers pass become messages."""
