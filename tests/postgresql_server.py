"""A PostgreSQL server for tests: a real one on loopback, from the system's own packages."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from debian_packages import install

# The server lives as long as somebody holds the other end of its standard input, even if that somebody is killed.
_FOR_AS_LONG = """
folder=$PWD; cd /
"$@" </dev/null >"$folder/log" 2>&1 &
cat >/dev/null
kill -QUIT $!; wait
rm -rf "$folder"
"""


def _programs():
    """The folder of initdb and pg_ctl; they are installed where that is possible."""
    def found():
        return max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)

    if found() is None:
        install("postgresql")
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
    whose = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        whose = {"user": "postgres", "group": "postgres", "extra_groups": ()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = ("--host", "127.0.0.1", "--port", str(port))

    def call(name, *arguments, check=True):
        return subprocess.run([programs / name, *arguments], check=check, cwd=folder, stdout=subprocess.DEVNULL, **whose)

    data = folder / "data"
    call("initdb", "--pgdata", data, "--username", "expunge", "--auth", "trust", "--no-sync")
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "max_connections": 200}
    server = subprocess.Popen(
        ["sh", "-c", _FOR_AS_LONG, "sh", programs / "postgres", "-D", data, "-p", str(port),
         *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))],
        stdin=subprocess.PIPE, cwd=folder, start_new_session=True, **whose)
    until = time.monotonic() + 60
    while call("pg_isready", *there, check=False).returncode:
        if server.poll() is not None or time.monotonic() > until:
            pytest.fail((folder / "log").read_text())
        time.sleep(0.1)

    def make(name):
        call("createdb", *there, "--username", "expunge", name)
        return f"postgresql://expunge@127.0.0.1:{port}/{name}"

    yield make
    server.stdin.close()
    server.wait()
