"""The JSON API: what the pages show and do, for programs; and what a browser verifies by itself."""

import base64
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import Field
from starlette.background import BackgroundTask

from expunge import deciding
from expunge.console import releasing, views
from expunge.console.app import Changing, Forbidden, Reading, of, who
from expunge.console.protection import REPORT_CSP
from expunge.contracts import Frozen
from expunge.errors import BadInput, WorkspaceBusy
from expunge.evidence import decisions
from expunge.evidence.decisions import same_person
from expunge.evidence.key_changes import as_entered
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger

router = APIRouter()

LONGEST_REASON = 4_000  # characters
_LARGEST = 2**53 - 1

RunName = Annotated[str, PathPart(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="A run's name.")]
Position = Annotated[int, Field(ge=0, le=_LARGEST)]
Limit = Annotated[int, Query(ge=1, le=200, description="Rows at most.")]
_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/json": {"schema": {
        "type": "object", "properties": {name: {"type": "string"} for name in ("error", "problem", "remedy")}}}}}
    for code, text in {
        400: "What was sent cannot be used", 401: "It is not known who asks", 403: "Refused", 404: "There is none",
        409: "Evidence and bytes disagree, or it is too late", 413: "Too large", 421: "Another address",
        422: "A field cannot be used", 429: "Too often", 503: "Somebody else works here now"}.items()}


class SignedDecision(Frozen):
    """A decision as its reviewer signed it, and the reason in plain text, whose digest the envelope names."""

    envelope: Annotated[str, Field(min_length=2, max_length=16_384, description="A DSSE envelope, as one JSON text.")]
    reason: Annotated[str, Field(min_length=1, max_length=LONGEST_REASON, description="Why, in the person's words.")]


# ------------------------------------------------------------------------------------------------ probes


@router.get("/healthz", tags=["probes"])
def healthz() -> PlainTextResponse:
    """Whether the process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", tags=["probes"], responses={503: {"description": "Not yet"}})
def readyz(request: Request) -> PlainTextResponse:
    """Whether the ledger can be read, and the index knows all of it."""
    behind = of(request).refresh()
    if behind.entries or behind.runs:
        return PlainTextResponse(f"{behind.entries} entries and {behind.runs} runs to go\n", 503)
    return PlainTextResponse("ok\n")


@router.get("/metrics", tags=["probes"])
def metrics(request: Request) -> PlainTextResponse:
    """What `expunge metrics` prints."""
    return PlainTextResponse(of(request).metrics(), media_type="text/plain; version=0.0.4")


# ------------------------------------------------------------------------------------------------ people and runs


@router.get("/api/v1/me", tags=["people"], responses=_PROBLEM)
def me(request: Request, asking: Reading) -> dict[str, Any]:
    """Who asks, with which roles and keys, and the token that changes need."""
    return who(of(request), asking)


@router.get("/api/v1/runs", tags=["runs"], responses=_PROBLEM)
def runs(request: Request, asking: Reading, state: Annotated[str | None, Query(max_length=32)] = None,
         after: Annotated[str | None, Query(max_length=400, description="`next` of the page before.")] = None,
         limit: Limit = views.PAGE) -> dict[str, Any]:
    """Runs, those that wait for people first, by deadline."""
    console = of(request)
    console.refresh()
    found = views.queue(console.index, state, place(after), limit)
    return {**found, "next": cursor(found["next"])}


def cursor(at: list[Any] | None) -> str | None:
    """A place in the queue as text."""
    return None if at is None else base64.urlsafe_b64encode(json.dumps(at).encode()).decode()


def place(text: str | None) -> tuple[Any, ...] | None:
    """A place in the queue from its text; BadInput if it is none."""
    if text is None:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(text.encode()))
        first, deadline, recent, run = found
    except (ValueError, TypeError):
        raise BadInput("after: is no place in this list", "begin without it") from None
    if not (isinstance(first, str | int) and isinstance(deadline, str) and isinstance(run, str)
            and isinstance(recent, int) and abs(recent) < _LARGEST and (isinstance(first, str) or first < _LARGEST)):
        raise BadInput("after: is no place in this list", "begin without it")
    return first, deadline, recent, run


@router.get("/api/v1/runs/{run}", tags=["runs"], responses=_PROBLEM)
def one_run(request: Request, asking: Reading, run: RunName) -> dict[str, Any]:
    """Everything that is known of a run."""
    console = of(request)
    found = views.run_page(console.workspace, console.index, run, asking.person)
    return {**found, "release": releasing.standing(console, asking, *views.known_run(console.workspace, run))}


@router.get("/api/v1/runs/{run}/trail", tags=["runs"], responses=_PROBLEM)
def trail_of_run(request: Request, asking: Reading, run: RunName) -> dict[str, Any]:
    """The ledger's entries that belong to a run, oldest first."""
    console = of(request)
    console.refresh()
    return {"entries": views.trail_of_run(console.workspace, console.index,
                                          *views.known_run(console.workspace, run))}


@router.get("/api/v1/runs/{run}/evidence/{what}", tags=["runs"], responses=_PROBLEM)
def evidence(request: Request, asking: Reading, run: RunName,
             what: Literal["request", "candidate", "report", "policy", "verdict"]) -> Response:
    """The stored bytes that a decision names by digest: whoever signs hashes them again."""
    found, _ = views.known_run(of(request).workspace, run)
    kind = "text/plain; charset=utf-8" if what == "policy" else "application/json"
    return Response(views.evidence_file(found, what).read_bytes(), media_type=kind)


@router.get("/api/v1/runs/{run}/page", tags=["runs"], responses=_PROBLEM)
def report_page(request: Request, asking: Reading, run: RunName) -> Response:
    """The report as a page: pictures are in it as far as policy and reason allow. It may run no script."""
    found, _ = views.known_run(of(request).workspace, run)
    if not found.page.is_file():
        raise BadInput(f"run '{run}': its report is not known", "there is one when the gate has been asked")
    return FileResponse(found.page, media_type="text/html", headers={"Content-Security-Policy": REPORT_CSP})


@router.get("/api/v1/runs/{run}/pictures", tags=["runs"], responses=_PROBLEM)
def pictures(request: Request, asking: Reading, run: RunName) -> dict[str, Any]:
    """Which pictures of before and after there are, as far as policy and reason allow them."""
    return views.pictures(*views.known_run(of(request).workspace, run))


@router.get("/api/v1/runs/{run}/pictures/{group}/{side}", tags=["runs"], response_class=Response,
            responses={**_PROBLEM, 200: {"content": {"image/png": {}}}})
def picture(request: Request, asking: Reading, run: RunName, group: Literal["unwanted", "retained"],
            side: Literal["image", "shown", "before", "after"]) -> Response:
    """A strip of tiles, as a PNG, in the order of `pictures`."""
    return Response(views.picture(*views.known_run(of(request).workspace, run), group, side), media_type="image/png")


@router.get("/api/v1/runs/{run}/bundle", tags=["runs"], responses=_PROBLEM)
def bundle(request: Request, asking: Reading, run: RunName, weights: bool = False) -> Response:
    """A run's evidence as one zip file that a stranger can check."""
    from expunge.evidence.bundle import writing
    from expunge.evidence.bundle.gathered import gather

    console = of(request)
    views.known_run(console.workspace, run)
    if not console.exporting.acquire(blocking=False):
        raise WorkspaceBusy("bundle: one is being written for somebody else", "try again in a minute")
    try:
        with tempfile.NamedTemporaryFile(prefix="bundle-", suffix=".zip", delete=False) as scratch:
            file = Path(scratch.name)
        try:
            writing.export(gather(console.workspace, run), file, weights=weights)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    finally:
        console.exporting.release()
    return FileResponse(file, media_type="application/zip", filename=f"{run}.zip",
                        background=BackgroundTask(file.unlink, missing_ok=True))


@router.post("/api/v1/runs/{run}/decisions", tags=["runs"], status_code=201, responses=_PROBLEM)
def decide(request: Request, asking: Changing, run: RunName, signed: SignedDecision) -> dict[str, Any]:
    """Enters a decision that its reviewer signed. The private key stays where it is."""
    console = of(request)
    envelope = signed.envelope.encode(errors="replace")
    approval, signer = decisions.open_approval(envelope, as_entered(console.workspace))
    if asking.person is not None and not same_person(asking.person, signer.person):
        raise Forbidden(f"{signer.person} has signed this, and {asking.person} hands it in")
    found, _ = views.known_run(console.workspace, run)
    with console.deciding:
        entered = deciding.take_in(found, envelope, signed.reason)
    return {"run": run, "person": approval.person, "decision": approval.decision, "envelope_sha256": entered.sha256,
            "position": entered.position, "state": found.state().state}


@router.post("/api/v1/runs/{run}/release", tags=["runs"], status_code=202, responses=_PROBLEM)
def release(request: Request, asking: Changing, run: RunName) -> dict[str, Any]:
    """Asks that an approved run be released: the next worker of the queue does it, once."""
    console = of(request)
    found, _ = views.known_run(console.workspace, run)
    return releasing.ask(console, asking, found)


# ------------------------------------------------------------------------------------------------ the trail


@router.get("/api/v1/ledger/checkpoint", tags=["ledger"], responses=_PROBLEM)
def checkpoint(request: Request, asking: Reading, size: Annotated[Position | None, Query()] = None) -> Response:
    """The newest signed checkpoint as a C2SP note, or that over `size` entries."""
    ledger = Ledger.existing(of(request).workspace)
    if size is None:
        return PlainTextResponse(ledger.checkpoint)
    note = next((note for at, note in ledger.checkpoints(size) if at == size), None)
    if note is None:
        raise BadInput(f"size: a checkpoint over {size} entries is not known", "leave it out for the newest")
    return PlainTextResponse(note)


@router.get("/api/v1/ledger/keyring", tags=["ledger"], responses=_PROBLEM)
def keyring(request: Request, asking: Reading) -> Response:
    """Public keys, people and roles: the keyring's stored bytes."""
    return Response(Keyring.load(of(request).workspace).to_bytes(), media_type="application/json")


@router.get("/api/v1/ledger/entries", tags=["ledger"], responses=_PROBLEM)
def entries(
    request: Request, asking: Reading,
    asked: Annotated[str | None, Query(alias="request", max_length=63, description="Of one request.")] = None,
    person: Annotated[str | None, Query(max_length=254, description="Signed by, or about, one person.")] = None,
    kind: Annotated[str | None, Query(max_length=32, description="room, run, decision, keyring, ...")] = None,
    digest: Annotated[str | None, Query(pattern="^[0-9a-f]{8,64}$", description="Names it, or begins so.")] = None,
    before: Annotated[Position | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = views.PAGE,
) -> dict[str, Any]:
    """Entries of the ledger, the newest first."""
    console = of(request)
    console.refresh()
    return views.trail(console.workspace, console.index, request=asked, person=person, kind=kind, digest=digest,
                       before=before, limit=limit)


@router.get("/api/v1/ledger/proofs", tags=["ledger"], responses=_PROBLEM)
def proofs(request: Request, asking: Reading, size: Annotated[Position, Query()],
           position: Annotated[list[Position], Query(min_length=1, max_length=200)]) -> dict[str, Any]:
    """Raw entries with their inclusion proofs (RFC 9162) in the tree of `size` entries."""
    return views.proofs(of(request).workspace, position, size)


@router.get("/api/v1/ledger/consistency", tags=["ledger"], responses=_PROBLEM)
def consistency(request: Request, asking: Reading, first: Annotated[Position, Query()],
                size: Annotated[Position, Query()]) -> dict[str, Any]:
    """The proof (RFC 9162) that the tree of `size` entries begins with that of `first`."""
    workspace = of(request).workspace
    if size > (there := Ledger.existing(workspace).size) or first > size:
        raise BadInput(f"size: the ledger has {there} entries", "ask for a smaller one, and first for no more")
    return views.consistency(workspace, first, size)


@router.get("/api/v1/live", tags=["service"], responses=_PROBLEM)
def live(request: Request, asking: Reading) -> dict[str, Any]:
    """What is served, and whether it is tainted."""
    return views.in_service(of(request).workspace)
