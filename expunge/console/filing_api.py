"""Filing a request: its pages, and the same as JSON."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathPart
from fastapi.responses import HTMLResponse

from expunge.console import api, filing
from expunge.console.app import Changing, Forbidden, Reading, of
from expunge.console.pages import page
from expunge.contracts import Identifier, Sampling
from expunge.errors import BadInput
from expunge.evidence import policies
from expunge.stores.walls import MOST, Walls, sheet_file

router = APIRouter(tags=["filing"], responses=api._PROBLEM)
pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

WallName = Annotated[str, PathPart(pattern="^[0-9a-f]{64}$", description="A wall's digest.")]
_SEALED = {"Content-Disposition": "inline", "Cache-Control": "no-store"}


@router.get("/api/v1/requests")
def requests(request: Request, asking: Reading) -> dict[str, Any]:
    """Filed requests and how far each has come, the latest first; and who may file."""
    console = of(request)
    return {"requests": filing.filed(console), "requesters": filing.requesters(console)}


@router.post("/api/v1/requests", status_code=201)
def file_request(request: Request, asking: Changing, given: filing.Filing) -> dict[str, Any]:
    """Files a request about what was marked on a wall. The marks are kept as an encrypted, versioned sample set."""
    return filing.file(of(request), asking, given)


@router.get("/api/v1/walls")
def walls(request: Request, asking: Reading) -> dict[str, Any]:
    """The walls of whoever asks, the latest first."""
    console = of(request)
    found = Walls(console.workspace).of(filing.owner_of(console, asking))
    return {"walls": [filing.described(wall) for wall in found]}


@router.post("/api/v1/walls", status_code=201)
def ask_for_wall(request: Request, asking: Changing, wish: filing.WallWish) -> dict[str, Any]:
    """Asks a worker to draw samples, or to read images, for whoever asks to look at."""
    return filing.described(filing.ask(of(request), asking, wish))


@router.get("/api/v1/walls/{wall}")
def one_wall(request: Request, asking: Reading, wall: WallName) -> dict[str, Any]:
    """A wall of whoever asks: how far it is; once it is there, what is on it, and what they have marked."""
    console = of(request)
    there = Walls(console.workspace)
    found = there.find(wall, filing.owner_of(console, asking))
    if found.state != "ready":
        return {**filing.described(found), "about": None, "marks": None}
    about = there.about(found)
    return {**filing.described(found), "about": about.model_dump(mode="json"), "marks": there.marks(found, about.count)}


@router.get("/api/v1/walls/{wall}/sheets/{number}", response_class=Response,
            responses={200: {"content": {"image/png": {}}}})
def sheet(request: Request, asking: Reading, wall: WallName,
          number: Annotated[int, PathPart(ge=0, lt=MOST)]) -> Response:
    """Thumbnails of a wall, a few hundred in one picture. No browser keeps it."""
    console = of(request)
    there = Walls(console.workspace)
    found = there.find(wall, filing.owner_of(console, asking))
    data = there.read(found.sha256, sheet_file(number))
    if data is None:
        raise BadInput(f"sheet {number}: is not known", "the wall says how many it has")
    return Response(data, media_type="image/png", headers=_SEALED)


@router.put("/api/v1/walls/{wall}/marks", status_code=204, response_class=Response)
def mark(request: Request, asking: Changing, wall: WallName, given: filing.Marked) -> Response:
    """Keeps what was marked so far, in the place of what was marked before."""
    console = of(request)
    there = Walls(console.workspace)
    there.mark(there.find(wall, filing.owner_of(console, asking)), given.marks)
    return Response(status_code=204)


@router.delete("/api/v1/walls/{wall}", status_code=204, response_class=Response)
def delete_wall(request: Request, asking: Changing, wall: WallName) -> Response:
    """Destroys a wall, its marks and the key that they are encrypted under."""
    filing.delete(of(request), asking, wall)
    return Response(status_code=204)


@router.get("/api/v1/chances")
def chances(
    request: Request, asking: Reading,
    unwanted: Annotated[int, Query(ge=0, le=MOST, description="Of the samples looked at, how many are unwanted.")],
    count: Annotated[int, Query(ge=1, le=MOST, description="How many were looked at.")],
    policy: Annotated[Identifier, Query()] = "standard",
    evaluate: Annotated[int, Query(ge=100, le=1_000_000)] = 10_000,
    search: Annotated[int, Query(ge=0, le=100_000)] = 200,
) -> dict[str, Any]:
    """How sure a verdict can get: what the policy's counting rules need, and what they allow to be left."""
    if unwanted > count:
        raise BadInput("unwanted: more than were looked at", "send both")
    return {"rules": filing.chances(of(request), unwanted, count, policy, Sampling(evaluate=evaluate, search=search))}


# ------------------------------------------------------------------------------------------------ pages


@pages.get("/file")
def begin(request: Request, asking: Reading) -> Response:
    """Where a request begins: which model, and what is looked at."""
    console = of(request)
    found, why = [], ""
    try:
        found = [filing.described(wall) for wall in Walls(console.workspace).of(filing.owner_of(console, asking))]
    except Forbidden as error:
        why = str(error)
    return page(request, asking, "file", walls=found, why=why, filed=filing.filed(console)[:20], most=MOST,
                known=filing.known_models(console, found))


@pages.get("/file/{wall}")
def look(request: Request, asking: Reading, wall: WallName) -> Response:
    """A wall, to be marked and to file a request about."""
    console = of(request)
    found = Walls(console.workspace).find(wall, filing.owner_of(console, asking))
    return page(request, asking, "wall", wall=filing.described(found), requesters=filing.requesters(console),
                policies=policies.names(console.workspace))
