"""`python3 -m dux_flopd`: the daemon, or `keystore …` at a terminal."""

import sys

from .terminal import main as keystore_main

if __name__ == "__main__":
    sys.exit(keystore_main(sys.argv[2:]))
