"""Core's RPC errors: the codes of its protocol.h and the one exception that carries them to the caller."""

MISC = -1
TYPE = -3
WALLET = -4
INVALID_ADDRESS_OR_KEY = -5
INSUFFICIENT_FUNDS = -6
INVALID_PARAMETER = -8
WALLET_NOT_FOUND = -18
WALLET_NOT_SPECIFIED = -19
DATABASE = -20
DESERIALIZATION = -22
TRANSACTION = -25
TRANSACTION_REJECTED = -26
ALREADY_IN_CHAIN = -27
IN_WARMUP = -28
TOO_MUCH = -100
"""No Core's: a user asked the faucet for too much, for too many searches of the chain, or for too much to be kept."""
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL = -32603
PARSE = -32700


class RpcError(Exception):
    """An error reply: `code` is Core's number, `message` its text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
