"""The command line of an app: everything is told by environment variables, so there is little to parse."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tuning.environment import describe


def read_command(
    name: str,
    summary: str,
    settings: type[Any],
    commands: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> str:
    """Parse the command line; `--help` prints the variables that `settings` reads.

    Returns the chosen one of `commands`, or an empty text where none was given.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        description=summary,
        epilog="environment variables:\n" + describe(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if commands:
        parser.add_argument("command", nargs="?", default="", choices=["", *commands], help="default: all of the work")
    return str(getattr(parser.parse_args(sys.argv[1:] if arguments is None else arguments), "command", ""))
