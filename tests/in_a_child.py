# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Native code that reads forged files, in a process that may die."""

import contextlib
import os
import time
from collections.abc import Callable

SECONDS = 10.0
USED, REFUSED, OUT_OF_TIME = 0, 1, 2


def in_a_child(action: Callable[[], object]) -> int:
    """Run in a process of its own and tell how it ended: one of the above, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # panics of Rust are printed
            os.fsync = lambda handle: None
            with contextlib.suppress(ValueError, OSError):
                code = REFUSED
                action()
                code = USED
        except BaseException as error:
            code = 98 if isinstance(error, AssertionError) else 99
        finally:
            os._exit(code)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return OUT_OF_TIME
