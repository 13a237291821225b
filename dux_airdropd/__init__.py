"""dux-airdropd watches the community fund and shows the network's definition."""
