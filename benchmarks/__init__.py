"""Measurements, each side by side with a peer in the same run; nothing here asserts a time."""
