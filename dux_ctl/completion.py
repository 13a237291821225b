"""Shell completion through argcomplete."""

import argparse

from .control import Control
from .exits import OK


def run(args: argparse.Namespace, control: Control) -> int:
    """Print the code that the shell evaluates: `eval "$(dux-ctl completion bash)"`."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["dux-ctl"], shell=args.shell))
    return OK
