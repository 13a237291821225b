"""The rules that the network votes on: proposals and votes, read from the chain; mounted by dux-airdropd."""
