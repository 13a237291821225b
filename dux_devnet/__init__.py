"""A whole private network on one machine, for trying Dux OS out and for its tests."""
