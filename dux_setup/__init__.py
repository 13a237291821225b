"""What sets a machine up: first boot, trial networks, and a connection to Flopcoin Core."""
