"""The pages. They hold no state and change nothing: what changes something goes through the JSON API."""

import functools
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from expunge.console import api, views
from expunge.console.app import Asking, Reading, TooOften, anybody, of, who
from expunge.console.identity import COOKIE
from expunge.console.index import called
from expunge.evidence.statements import PREDICATES

if TYPE_CHECKING:
    import jinja2

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
KINDS = ("decision", "policy", *(called(predicate.TYPE) for predicate in PREDICATES))


@functools.cache
def _templates() -> "jinja2.Environment":
    import jinja2

    found = jinja2.Environment(loader=jinja2.PackageLoader("expunge.console"), autoescape=True, trim_blocks=True,
                               lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    found.filters["day"] = lambda written: str(written or "")[:16].replace("T", " ")
    found.filters["words"] = lambda text: str(text).replace("_", " ")
    return found


def page(request: Request, asking: Asking | None, name: str, code: int = 200, /, **given: Any) -> HTMLResponse:
    """A page as somebody sees it; nobody if nothing is known of who asks."""
    known = who(of(request), asking) if asking else None
    return HTMLResponse(_templates().get_template(f"{name}.html.j2").render(page=name, me=known, **given), code)


def refusal(request: Request, status: int, problem: str, remedy: str) -> HTMLResponse:
    """What somebody sees who cannot see what they asked for."""
    return page(request, None, "refusal", status, status=status, problem=problem, remedy=remedy)


@router.get("/enter")
def enter(request: Request, token: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Takes the printed link: whoever has it comes in, once."""
    console = of(request)
    if not console.strangers.allows(request.client.host if request.client else "-"):
        raise TooOften
    session = console.identity.enter(token)
    if session is None:
        return refusal(request, 403, "this link has been used, or is of an earlier start",
                       "stop the console and start it again: it prints another")
    answer = RedirectResponse("/", 303)
    answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=console.origin.startswith("https:"))
    return answer


@router.get("/")
def queue(request: Request, asking: Reading, state: Annotated[str | None, Query(max_length=32)] = None,
          after: Annotated[str | None, Query(max_length=400)] = None) -> Response:
    """The queue."""
    console = of(request)
    behind = console.refresh()
    found = views.queue(console.index, state, api.place(after))
    onward = api.cursor(found["next"])
    more = onward and "/?" + urlencode({**({"state": state} if state else {}), "after": onward})
    return page(request, asking, "queue", queue=found, state=state, more=more, after=after, behind=behind)


@router.get("/runs/{run}")
def run(request: Request, asking: Reading, run: api.RunName) -> Response:
    """One run."""
    console = of(request)
    console.refresh()
    known = views.known_run(console.workspace, run)
    return page(request, asking, "run", run=api.one_run(request, asking, run), longest=api.LONGEST_REASON,
                entries=views.trail_of_run(console.workspace, console.index, *known))


@router.get("/audit")
def audit(
    request: Request, asking: Reading,
    asked: Annotated[str, Query(alias="request", max_length=63)] = "",
    person: Annotated[str, Query(max_length=254)] = "",
    kind: Annotated[str, Query(max_length=32)] = "",
    digest: Annotated[str, Query(pattern="^([0-9a-f]{8,64})?$")] = "",
    before: Annotated[api.Position | None, Query()] = None,
) -> Response:
    """The audit trail."""
    console = of(request)
    behind = console.refresh()
    chosen = {"request": asked.strip(), "person": person.strip(), "kind": kind, "digest": digest}
    found = views.trail(console.workspace, console.index, request=chosen["request"] or None,
                        person=chosen["person"] or None, kind=kind or None, digest=digest or None, before=before)
    more = found["next"] is not None and "/audit?" + urlencode(
        {**{name: value for name, value in chosen.items() if value}, "before": found["next"]})
    return page(request, asking, "audit", trail=found, chosen=chosen, more=more, kinds=KINDS, behind=behind,
                 before=before)


@router.get("/live")
def live(request: Request, asking: Reading) -> Response:
    """What is served."""
    return page(request, asking, "live", live=views.in_service(of(request).workspace))


@router.get("/key")
def key(request: Request, asking: Annotated[Asking, Depends(anybody)]) -> Response:
    """The key in this browser; also for people whom the keyring does not know yet, who get into it by this."""
    return page(request, asking, "key")
