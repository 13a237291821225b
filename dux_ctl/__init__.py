"""The command line of a Dux OS node. Starts fast: nothing but the standard library is imported for `--help`."""
