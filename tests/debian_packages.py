"""Debian's packages, installed where tests need a program that is not here and may do so."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def install(package):
    """Tries to install a package; whoever needs it looks whether it is there. One process at a time: apt waits for nobody."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    with Path(tempfile.gettempdir(), "expunge-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(f"apt-get update -q; apt-get install -yq --no-install-recommends {package}", shell=True, check=False,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
