"""What the commands share."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what `add_subparsers` returns


def shown(value: object) -> str:
    """A value in a table."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
