"""Worker processes of data loaders: started by a process without threads, left alone by signals, gone with the parent.

A training is not forked: its threads (of Gloo, of pinned memory) may hold a lock at that moment, which the copy of the
process then waits for without end.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running, set_forkserver_preload


@cache
def worker_context() -> BaseContext:
    """How loaders start their workers: by a server that has loaded what they need, started with the first loader.

    Ctrl-C and SIGTERM reach all processes of a launch, and are for the parent alone: it saves its step.
    """
    set_forkserver_preload(["prologue.data.loader"])
    resource_tracker.ensure_running()  # before signals are blocked, which it undoes
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        ensure_running()  # what is blocked stays so in the server and in the workers
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.register(_kill_workers)
    return get_context("forkserver")


def _kill_workers() -> None:
    """End the workers that an error has left, before multiprocessing sends them a SIGTERM and waits."""
    for child in active_children():
        if child.daemon:
            child.kill()


@contextmanager
def without_script() -> Iterator[None]:
    """Processes that are started in the context do not import the script of this one, with all that it imports."""
    script = vars(sys.modules["__main__"])
    path = script.pop("__file__", None)
    try:
        yield
    finally:
        if path is not None:
            script["__file__"] = path


def end_with_parent(*_: object) -> None:
    """End this process when its parent has ended, also where that was killed."""
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
