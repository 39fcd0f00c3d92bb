"""The console as an application: its state, its errors, and what it serves."""

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from expunge import __version__
from expunge.configuration import ConsoleSettings
from expunge.console.identity import Asking, Identity, Unknown, entries_of, roles_of
from expunge.console.index import Behind, Index
from expunge.console.protection import Protection, Rate, names_of
from expunge.contracts import shorten
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Refused, Rejected, WorkspaceBusy
from expunge.evidence.keys import Keyring
from expunge.settings import Workspace

_LOG = logging.getLogger(__name__)
STATUS: dict[type[ExpungeError], int] = {
    BadInput: 400, Refused: 403, DoesNotVerify: 409, Rejected: 409, WorkspaceBusy: 503}


@dataclass
class Console:
    """What the console's parts share."""

    workspace: Workspace
    identity: Identity
    index: Index
    origin: str
    metrics: Callable[[], str]
    deciding: threading.Lock = field(default_factory=threading.Lock)  # decisions are taken in one after the other
    exporting: threading.Lock = field(default_factory=threading.Lock)
    reads: Rate = field(default_factory=lambda: Rate(in_a_row=300, per_second=50))
    writes: Rate = field(default_factory=lambda: Rate(in_a_row=30, per_second=0.5))
    strangers: Rate = field(default_factory=lambda: Rate(in_a_row=30, per_second=1))
    behind: Behind = field(default_factory=lambda: Behind(entries=1, runs=1))

    def refresh(self) -> Behind:
        """Brings the index up to date, as far as one look does."""
        self.behind = self.index.refresh()
        return self.behind


class TooOften(Exception):
    """Somebody asks more often than is good for the others."""


class Forbidden(Exception):
    """Somebody known asks for what is not theirs; the text says why."""


def of(request: Request) -> Console:
    """The console that a request was made to."""
    console: Console = request.app.state.console
    return console


def anybody(request: Request) -> Asking:
    """Who asks, whatever they may do."""
    console = of(request)
    address = request.client.host if request.client else "-"
    try:
        asking = console.identity.of(request)
    except Unknown:
        if not console.strangers.allows(address):
            raise TooOften from None
        raise
    if not console.reads.allows(asking.person or address):
        raise TooOften
    return asking


def reader(request: Request, asking: Annotated[Asking, Depends(anybody)]) -> Asking:
    """Who asks, if they may look: a laptop's owner, or whoever has a key that counts."""
    if asking.person is None or of(request).identity.is_for_one:
        return asking
    if not entries_of(Keyring.load(of(request).workspace), asking.person):
        raise Forbidden(f"{asking.person} has no key here that counts: make one, and have an admin enter it")
    return asking


def changer(request: Request, asking: Annotated[Asking, Depends(reader)]) -> Asking:
    """Who asks, if it was they who wanted the change: no other site's page can have made their browser ask."""
    console = of(request)
    if not asking.is_program():
        if request.headers.get("origin") not in names_of(console.origin):
            raise Forbidden("this did not come from a page of the console")
        if not console.identity.is_csrf_token(asking, request.headers.get("x-csrf-token", "")):
            raise Forbidden("the page is of an earlier start of the console: load it again")
    if not console.writes.allows(asking.person or "one"):
        raise TooOften
    return asking


Reading = Annotated[Asking, Depends(reader)]
Changing = Annotated[Asking, Depends(changer)]


def who(console: Console, asking: Asking) -> dict[str, object]:
    """Somebody, and what they may do by the keyring."""
    entries = entries_of(Keyring.load(console.workspace), asking.person)
    return {"person": asking.person, "how": asking.how, "roles": list(roles_of(entries)),
            "keys": [entry.key_id for entry in entries], "csrf": console.identity.csrf_token(asking)}


def create(workspace: Workspace, settings: ConsoleSettings | None, origin: str, metrics: Callable[[], str],
           person: str | None = None) -> FastAPI:
    """The application.

    Args:
        workspace: Whose state it shows, and to which decisions go.
        settings: How it knows people; None serves one person, by a link.
        origin: How browsers reach it.
        metrics: Gives what `expunge metrics` prints.
        person: Of a laptop's console: who sits there.
    """
    from expunge.console import api, filing_api, pages

    console = Console(workspace, Identity(settings, person), Index(workspace), origin, metrics)
    app = FastAPI(title="expunge console", version=__version__, lifespan=_life, docs_url=None, redoc_url=None,
                  openapi_url="/api/openapi.json", description=(
                      "Reads what an installation of expunge did, and takes in requests, and decisions signed "
                      "elsewhere. Programs show `Authorization: Bearer TOKEN`."))
    app.state.console = console
    app.include_router(api.router)
    app.include_router(filing_api.router)
    app.include_router(filing_api.pages)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=str(files("expunge.console") / "static")), name="static")
    _add_errors(app)
    app.add_middleware(Protection, origin=origin)
    return app


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    console: Console = app.state.console
    ends = threading.Event()

    def keep_up() -> None:
        """Takes in what there is; a long ledger takes minutes the first time."""
        while not ends.is_set():
            try:
                behind = console.refresh()
            except Exception:  # noqa: BLE001 - said once here; whoever asks for a page is told as well
                _LOG.exception("the index could not be brought up to date")
                return
            if behind == Behind(entries=0, runs=0):
                return

    thread = threading.Thread(target=keep_up, daemon=True, name="index")
    thread.start()
    yield
    ends.set()
    thread.join(10)
    console.index.close()


def _add_errors(app: FastAPI) -> None:
    """Errors in one form: what is wrong, and what to do about it. No traceback leaves the house."""

    @app.exception_handler(ExpungeError)
    def _ours(request: Request, error: ExpungeError) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        if "is not known" in error.problem and status == 400:
            status = 404
        if status == 500:
            _LOG.error("%s %s: %s", request.method, request.url.path, shorten(str(error)))
            status = 503
        return _answer(request, status, type(error).__name__, shorten(error.problem, 400), shorten(error.remedy, 400))

    @app.exception_handler(Unknown)
    def _unknown(request: Request, error: Unknown) -> Response:
        return _answer(request, 401, "Unknown", "the console does not know who asks", str(error))

    @app.exception_handler(Forbidden)
    def _forbidden(request: Request, error: Forbidden) -> Response:
        return _answer(request, 403, "Forbidden", str(error), "")

    @app.exception_handler(TooOften)
    def _too_often(request: Request, error: TooOften) -> Response:
        answer = _answer(request, 429, "TooOften", "too many requests", "wait a few seconds")
        answer.headers["Retry-After"] = "5"
        return answer

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _answer(request, 422, "BadInput", shorten(f"{place}: {first['msg']}", 300), "correct it")

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        answer = _answer(request, error.status_code, "NotFound" if error.status_code == 404 else "BadInput",
                         str(error.detail), "")
        answer.headers.update(error.headers or {})
        return answer


def _answer(request: Request, status: int, kind: str, problem: str, remedy: str) -> Response:
    path = request.url.path
    if path.startswith(("/api/", "/static/")) or path in ("/healthz", "/readyz", "/metrics"):
        return JSONResponse({"error": kind, "problem": problem, "remedy": remedy}, status)
    if request.method not in ("GET", "HEAD"):
        return PlainTextResponse(f"{problem}\n", status)
    from expunge.console.pages import refusal

    return refusal(request, status, problem, remedy)
