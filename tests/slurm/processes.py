"""Processes that tests start."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def prepare() -> None:
    """Run in a new process: it gets SIGTERM when pytest dies, even where pytest cannot clean up.

    It also hears Ctrl-C, which a shell has its background jobs, such as this pytest may be, ignore.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
