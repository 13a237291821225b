"""The coin: chain parameters, scripts, channel transactions, and what counts as settled work.

Nothing here does I/O. Amounts are koinu, hashes and txids the usual (reversed) hex text, scripts and keys bytes.
"""
