"""How the process ends on Ctrl-C or SIGTERM, whenever the signal comes: one sentence, no traceback, exit code 130 or 143.

While something is being imported, and while the interpreter ends, an exception would be swallowed, wrapped or printed by whatever code
is running; then the process exits at once. At all other times KeyboardInterrupt is raised, so that the running code can clean up. Either way nothing
on disk suffers: every file is whole or absent at any moment.
"""

import os
import signal
import sys
from types import FrameType

WORDS = "interrupted; what was finished is kept. The same command goes on from there, `assay record` with --resume if it keeps checkpoints."

heard = 0
"""Number of the signal that came; 0 as long as none did."""
_leaving = False


def listen() -> None:
    """Install the handlers of both signals, except of a signal that the parent process set to be ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)
    sys.unraisablehook = _unraisable


def leaving() -> None:
    """Mark the work as done: from now on a signal ends the process at once, because no code is left to catch an exception."""
    global _leaving
    _leaving = True


def code() -> int:
    """Exit code for the signal that came, by the convention of shells (128 + signal number)."""
    return 128 + (heard or signal.SIGINT)


def leave() -> None:
    """Print the sentence about the signal and exit the process at once."""
    # A hidden cursor of a progress bar, if there is one, is shown again.
    shown = b"\x1b[?25h" if os.isatty(2) else b""
    os.write(2, shown + f"assay: {WORDS}\n".encode())
    os._exit(code())


def _answer(number: int, frame: FrameType | None) -> None:
    global heard
    heard = number
    if _leaving or _importing(frame):
        leave()
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # An exception in a destructor or a callback reaches nobody.
    if heard and isinstance(unraisable.exc_value, KeyboardInterrupt):
        leave()
    sys.__unraisablehook__(unraisable)
