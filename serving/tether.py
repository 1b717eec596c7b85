"""`python serving/tether.py PARENT_PID PROGRAM ...`: become the program, and have the kernel stop it with its parent.

Linux only; elsewhere the program just starts. The setting survives the exec, so it works for Envoy too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Arm the signal, then exec; a parent that died in between ends it here."""
    parent, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the supervisor is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
