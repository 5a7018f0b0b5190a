"""Which process of a launch this is; needs no torch."""

import os


def is_main_process() -> bool:
    """Whether this process is the launch's first."""
    return int(os.environ.get("RANK", "0")) == 0
