"""dux-escrowd: payment channels between a buyer and a provider, and the payments on them."""
