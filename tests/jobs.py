"""Trainings in a process of their own, for tests that let one end, or kill it."""

import time
from pathlib import Path
from subprocess import Popen


def finished(job: Popen) -> None:
    errors = job.communicate()[1]
    assert job.returncode == 0, errors[-2000:]


def kill_after(job: Popen, file: Path) -> None:
    """Kill a job as soon as it has written a file."""
    while not file.is_file() and job.poll() is None:
        time.sleep(0.02)
    job.kill()
    job.communicate()
