"""Shell completion through argcomplete."""

import argparse

from .control import Control
from .exits import OK


def run(args: argparse.Namespace, control: Control) -> int:
    """Print the code that the shell evaluates: `eval "$(dux-ctl completion bash)"`."""
    import argcomplete

    print(argcomplete.shellcode(["dux-ctl"], shell=args.shell))
    return OK
