"""Serving the console from one process: on this machine for one person, or behind a proxy for many."""

import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from expunge.configuration import CONFIG_FILE, Configuration
from expunge.errors import BadInput
from expunge.settings import Workspace

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_AT_ONCE = 200  # connections


def serve(workspace: Workspace, host: str, port: int, metrics: Callable[[], str],
          say: Callable[[str, str | None], None], person: str | None = None) -> None:
    """Answers until it is stopped. `say` is told the address, and on a laptop the link that lets its reader in, once.

    Raises:
        BadInput: the address cannot be used; others could reach it and nothing says how they are known; or the
            console's packages are not installed.
    """
    try:
        from expunge.console.app import create
    except ImportError:
        raise BadInput("console: it needs packages that are not installed", "pip install 'expunge[console]'") from None
    settings = Configuration.load(workspace).console
    if settings is None and not _is_this_machine(host):
        raise BadInput(f"host: {host} can be reached by others, and nothing says how the console knows them",
                       f"see 'console' in {CONFIG_FILE}, or leave --host out")
    if settings is not None and person is not None:
        raise BadInput(f"--as: {CONFIG_FILE} says how the console knows people", "leave it out")
    listening = _listen(host, port)
    origin = settings.address if settings else f"http://{host}:{listening.getsockname()[1]}"
    app = create(workspace, settings, origin, metrics, person)
    say(origin, None if settings else f"{origin}/enter?token={app.state.console.identity.link_token}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    server(app).run(sockets=[listening])


def server(app: "FastAPI") -> "uvicorn.Server":
    """What answers for an application, with limits; on the sockets that its `run` is given.

    Requests are not logged: an address may hold the link. Headers of a proxy are for `identity` alone to believe.
    """
    import uvicorn

    return uvicorn.Server(uvicorn.Config(
        app, access_log=False, log_level="warning", proxy_headers=False, server_header=False, ws="none",
        limit_concurrency=_AT_ONCE, timeout_keep_alive=10, h11_max_incomplete_event_size=32_768,
        timeout_graceful_shutdown=5))


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise BadInput(f"port: {host}:{port} cannot be listened on ({said})", "name another with --port") from None
