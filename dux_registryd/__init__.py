"""dux-registryd: the node's key, its one door to other nodes, and the directory of what the network shares."""
