"""What every Dux OS daemon shares: lifecycle, RPC, storage, money, records and the coin."""

__version__ = "0.1.0"
