"""A PostgreSQL server for tests: a real one on loopback, from the system's own packages."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian_packages import install

# The server lives as long as somebody holds the other end of its standard input, even if that somebody is killed.
# It is asked for by its own note of its process: one that was started again is another.
_FOR_AS_LONG = """
folder=$PWD; cd /
"$@" </dev/null >"$folder/log" 2>&1 &
cat >/dev/null
server=$(head -n 1 "$folder/data/postmaster.pid")
kill -QUIT $server
while kill -0 $server 2>/dev/null; do sleep 0.1; done
rm -rf "$folder"
"""


def _programs():
    """The folder of initdb and pg_ctl; they are installed where that is possible."""
    def found():
        return max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)

    if found() is None:
        install("postgresql")
    return found() and found().parent


class Server:
    """A server at work. `server("name")` makes a database, and is its address."""

    def __init__(self):
        self._programs = _programs()
        if self._programs is None:
            because = "PostgreSQL is not installed, and only root could install it"
            if os.environ.get("CI"):
                pytest.fail(because)
            pytest.skip(because)
        beside = os.environ.get("PYTEST_DEBUG_TEMPROOT")  # not below the tests' own folders, which are root's alone
        self._folder = folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=beside))
        self._whose = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
            self._whose = {"user": "postgres", "group": "postgres", "extra_groups": ()}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._there = ("--host", "127.0.0.1", "--port", str(self._port))
        self._call("initdb", "--pgdata", folder / "data", "--username", "expunge", "--auth", "trust", "--no-sync")
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "max_connections": 200}
        self._at_work = subprocess.Popen(
            ["sh", "-c", _FOR_AS_LONG, "sh", self._programs / "postgres", "-D", folder / "data", "-p", str(self._port),
             *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))],
            stdin=subprocess.PIPE, cwd=folder, start_new_session=True, **self._whose)
        until = time.monotonic() + 60
        while self._call("pg_isready", *self._there, check=False).returncode:
            if self._at_work.poll() is not None or time.monotonic() > until:
                pytest.fail((folder / "log").read_text())
            time.sleep(0.1)

    def __call__(self, name):
        self._call("createdb", *self._there, "--username", "expunge", name)
        return f"postgresql://expunge@127.0.0.1:{self._port}/{name}"

    def restart(self):
        """Ends it as a crash would, whoever is connected, and starts it again; returns when it answers."""
        self._call("pg_ctl", "restart", "--wait", "--mode", "immediate", "--pgdata", self._folder / "data",
                   "--log", self._folder / "log")

    @contextmanager
    def away(self):
        """Ended as by a crash, for as long as this lasts."""
        self._call("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", self._folder / "data")
        try:
            yield
        finally:
            self.restart()  # and not `start`, which forgets where it listened

    def end(self):
        """Ends it, and leaves nothing of it."""
        self._at_work.stdin.close()
        self._at_work.wait()

    def _call(self, name, *arguments, check=True):
        return subprocess.run([self._programs / name, *arguments], check=check, cwd=self._folder,
                              stdout=subprocess.DEVNULL, **self._whose)


@pytest.fixture(scope="session")
def postgresql():
    """Makes databases: `postgresql("name")` is the address of a new one."""
    server = Server()
    yield server
    server.end()
