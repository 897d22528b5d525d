"""Where the bytes of messages are, and how the objects that a caller passes become messages."""
