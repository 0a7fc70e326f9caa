"""What this process uses, where the system says:

Seconds of the processor, memory now and at its peak.
"""

import os
import sys
import time
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def processor():
    """Seconds of the processor so far, of all threads: no clock."""
    return time.process_time()


def children():
    """Seconds of the processor of all processes that this one started and that have ended;

    0 where the system doesn't say.
    """
    spent = os.times()
    return spent.children_user + spent.children_system


def _line(name):
    if not STATUS.is_file():
        return 0
    return next(
        (
            int(line.split()[1]) / 1024
            for line in STATUS.read_text().splitlines()
            if line.startswith(name)
        ),
        0,
    )


def resident_mb():
    """Memory in use."""
    return round(_line("VmRSS:"))


def peak_mb():
    """The most there ever was, or since `reset_peak`; 0 where the system doesn't say."""
    return round(_line("VmHWM:"))


def reset_peak():
    """Forget the peak; where that isn't possible it stays what it was."""
    if sys.platform == "linux":
        try:
            RESET.write_text("5")
        except OSError:
            pass
