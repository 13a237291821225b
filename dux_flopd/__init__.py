"""dux-flopd: coin keys, wallet and chain. It alone holds coin keys and talks to Flopcoin Core (or dux-devchain)."""
