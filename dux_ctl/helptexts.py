"""What the help of dux-ctl says of each command: what it does, what it needs of whoever types it, examples."""

LOOK = "Needs the group duxnet."
SPEND = "Needs the groups duxnet and dux-spend."
ADMIN = "Needs the groups duxnet and dux-admin, or root."

BY_ACCESS = {
    "read": LOOK,
    "spend": SPEND,
    "admin": ADMIN,
    "daemon": "Is for the node's own daemons, and root.",
    "peer": "Is for other nodes.",
}
"""Class of access of a method → who may call it unless the configuration names other groups."""
NAMESPACE_NEED = (
    "What only looks needs the group duxnet, what spends dux-spend as well, what changes how the node works dux-admin "
    "as well; root may do everything."
)

EXAMPLES = """\
examples:
  dux-ctl status
  dux-ctl wallet balance
  dux-ctl app search upscale
  dux-ctl task run image-upscale photo.png --set factor=2 --output big.png
  dux-ctl why image-upscale
"""
OWN = {
    "status": "show how this node is, all daemons at once",
    "why": "explain a task, payment, channel, app, node, proposal, payout key, daemon, error, or the airdrop",
    "audit": "prove that chain, channels, payments and books agree to the koinu",
    "demo": "pay a second, temporary node for a task, and be paid by it; coins of a trial network only",
    "setup": "connect a Flopcoin Core on this machine",
    "completion": "print what makes the shell complete dux-ctl's words: `eval` it",
}
OWN_NEEDS = {
    "status": LOOK,
    "why": f"{LOOK} What a daemon's journal says is shown to root and the groups adm and systemd-journal.",
    "audit": LOOK,
    "demo": f"{SPEND} The node must be on a trial network of its own machine; nothing is left of it afterwards.",
    "setup": "With --check it only looks, which anybody may; what it changes needs root.",
    "completion": "Needs nothing.",
}
OWN_EXAMPLES = {
    "status": ["dux-ctl status", "dux-ctl status --json"],
    "why": ["dux-ctl why image-upscale", "dux-ctl why flopd", "dux-ctl why devchain", "dux-ctl why WalletLocked"],
    "audit": ["dux-ctl audit"],
    "demo": ["dux-ctl demo", "dux-ctl demo --json"],
    "setup": ["dux-ctl setup flopcoin --check", "sudo dux-ctl setup flopcoin"],
    "completion": ["dux-ctl completion bash"],
}
NAMESPACES = {
    "app": "the store: publish, search and show apps; init and test for sellers",
    "wallet": "balance, addresses, sending, history, unlock",
    "chain": "the chain that this node follows",
    "key": "this node's coin keys",
    "tx": "transactions of this node",
    "channel": "payment channels to and from other nodes",
    "payment": "single payments inside channels",
    "books": "the double-entry books of this node",
    "task": "run apps on other nodes, follow and cancel tasks",
    "provider": "what this machine lends to others",
    "sandbox": "the worker that runs strangers' programs",
    "node": "nodes of the network, and this one",
    "peer": "connections to other nodes",
    "directory": "the shared directory of signed records",
    "blob": "payloads by their hash",
    "fund": "the community fund",
    "airdrop": "the fund's rounds: what is next, who has a share, what one costs, verifying them",
    "param": "the voted parameters: in force, history, verifying them",
    "proposal": "changes of the rules: propose, vote, see what one would have done",
    "network": "the network that this node is on",
    "daemon": "a daemon itself",
    "rpc": "descriptions of the daemons' methods",
}
NAMESPACE_EXAMPLES = {
    "app": ["dux-ctl app search upscale"],
    "daemon": ["dux-ctl daemon status flopd"],
    "network": ["dux-ctl network show", "sudo dux-ctl network host home.yaml", "sudo dux-ctl network join home.yaml"],
    "proposal": ["dux-ctl proposal list"],
    "provider": ["dux-ctl provider limits"],
    "rpc": ["dux-ctl rpc discover flopd"],
    "task": ["dux-ctl task run image-upscale photo.png --set factor=2 --output big.png"],
    "wallet": ["dux-ctl wallet balance", "sudo dux-ctl wallet unlock"],
}
"""Where the first method's own example says too little."""
NAMESPACE_NEEDS = {"network": "`show` needs the group duxnet; `host`, `join` and `leave` need root."}
