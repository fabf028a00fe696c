"""SIGTERM: what a batch system sends before it takes the machine away.

It ends a command as Ctrl-C does, but with exit code 75 (EX_TEMPFAIL of sysexits.h), by which a scheduler
knows that the same command goes on when it is called again. Training asks between its steps, so that what
it saves is the state after a whole step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75


class Preempted(KeyboardInterrupt):
    """This process was asked to end; whoever cleans up after Ctrl-C does so after this, too."""


_asked = False  # of this process, by SIGTERM
_holding = 0  # blocks of `held` that the main thread is in


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """A handler for SIGTERM: raises Preempted, or within `held` lets that block find out."""
    global _asked
    _asked = True
    if not _holding:
        raise Preempted


@contextmanager
def noticed() -> Iterator[None]:
    """Within the block, SIGTERM raises Preempted in the main thread; in another thread nothing changes."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked = False


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Keep SIGTERM waiting during the block; yields a function that tells whether one waits.

    Raises
    ------
    Preempted
        At the end of the block, where one waits.
    """
    global _holding
    _holding += 1
    try:
        yield lambda: _asked
    finally:
        _holding -= 1
    if _asked and not _holding:
        raise Preempted
