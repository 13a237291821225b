"""The models that cross a socket: one module a daemon, imported by both ends of a call."""
