"""A PostgreSQL server for tests: a real one on loopback, from the system's own packages."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest


def _programs():
    """The folder of initdb and pg_ctl; they are installed where that is possible."""
    def found():
        return max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)

    if found() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run("apt-get update -q && apt-get install -yq --no-install-recommends postgresql", shell=True,
                       check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    return found() and found().parent


@pytest.fixture(scope="session")
def postgresql():
    """Makes databases: `postgresql("name")` is the address of a new one."""
    programs = _programs()
    if programs is None:
        because = "PostgreSQL is not installed, and only root could install it"
        if os.environ.get("CI"):
            pytest.fail(because)
        pytest.skip(because)
    beside = os.environ.get("PYTEST_DEBUG_TEMPROOT")  # not below the tests' own folders, which are root's alone
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=beside))
    as_nobody = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_nobody = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(name, *arguments):
        subprocess.run([*as_nobody, programs / name, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = folder / "data"
    call("initdb", "--pgdata", data, "--username", "expunge", "--auth", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=200"
    call("pg_ctl", "--pgdata", data, "--wait", "--log", folder / "log", "--options", options, "start")

    def make(name):
        call("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "expunge", name)
        return f"postgresql://expunge@127.0.0.1:{port}/{name}"

    yield make
    call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
    shutil.rmtree(folder)
