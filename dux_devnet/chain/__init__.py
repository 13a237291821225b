"""dux-devchain: a one-process chain that speaks the part of Core's RPC that flopd uses. Its coins have no value."""
