"""What is served, from the bytes themselves, and whether any of it is tainted: by records here and by MLflow."""

from typing import Any, Literal

from expunge.contracts import Frozen
from expunge.errors import DoesNotVerify, ExpungeError, Refused
from expunge.settings import Workspace
from expunge.stores import releases, taint
from expunge.stores.taint import Descent, Mark
from expunge.stores.tracking import CHAMPION

Standing = Literal["clean", "pending", "tainted", "not what was released", "not in service"]


class Served(Frozen):
    """A model that had a release here, and what is served of it now."""

    model: str
    standing: Standing
    path: str | None  # of what is served, relative to the workspace, or its s3:// address; null if nothing is
    generation: int | None
    sha256: str | None  # of the bytes that are served, as they are now
    run: str | None
    request_id: str | None  # by which it was released
    tainted_by: str | None  # the request by which it may not be served, or may not be once that is released
    problem: str = ""  # why its release does not verify
    underway: str | None = None  # the folder of an approved release that is being rolled out, and may get requests


class Descendant(Frozen):
    """A version in MLflow's registry of which a request forbids the bytes."""

    model: str
    version: str
    sha256: str
    tainted_by: str
    aliases: tuple[str, ...]


class Live(Frozen):
    """All that is served, and what is tainted of it or elsewhere."""

    served: tuple[Served, ...]
    descendants: tuple[Descendant, ...]  # of tainted models, in MLflow
    mlflow_not_asked: str  # why MLflow could not be asked; empty if it was

    @property
    def exit_code(self) -> int:
        """40 if bytes are not those released, 41 if something tainted is served or is MLflow's champion, else 0."""
        if any(one.standing == "not what was released" for one in self.served):
            return DoesNotVerify.exit_code
        tainted = any(one.standing == "tainted" for one in self.served)
        return Refused.exit_code if tainted or any(CHAMPION in one.aliases for one in self.descendants) else 0


def live(workspace: Workspace, by_bytes: bool = True) -> Live:
    """What is served in this workspace. Changes nothing.

    Args:
        workspace: Where releases lie.
        by_bytes: Whether every byte of them is read. Otherwise what is said of them counts, and their sizes.

    Raises:
        BadInput: a mark of taint cannot be read.
        ExpungeError: where models are served from cannot be reached: what is served cannot be told.
    """
    placed, known = taint.marks(workspace), taint.descent(workspace)
    try:
        holding = releases.effective(workspace, placed)
    except DoesNotVerify:
        holding = placed  # which releases are live cannot be told: every mark counts
    served = tuple(_served(workspace, model, placed, holding, known, by_bytes) for model in releases.models(workspace))
    descendants = tuple(
        Descendant(model=one.model, version=one.version, sha256=one.sha256, tainted_by=mark.request_id,
                   aliases=one.aliases)
        for one in known.versions if (mark := taint.tainting(one.sha256, holding, known.parents)))
    return Live(served=served, descendants=descendants, mlflow_not_asked=known.not_asked)


def _served(workspace: Workspace, model: str, placed: tuple[Mark, ...], holding: tuple[Mark, ...],
            known: Descent, by_bytes: bool) -> Served:
    nothing: dict[str, Any] = {name: None for name in ("path", "generation", "sha256", "run", "request_id",
                                                       "tainted_by")}
    store = releases.store_of(workspace)
    try:
        release, pointed = store.current(model)
    except ExpungeError as error:
        return Served(model=model, standing="not what was released", problem=error.problem, **nothing)
    if release is None:
        return Served(model=model, standing="not in service", underway=pointed.underway, **nothing)
    digests = {file.name: store.digest(release, file, by_bytes) for file in (release.weights, *release.beside)}
    digest = digests[release.weights.name]
    problem = next((f"{file.name}: not the bytes that were released" for file in (release.weights, *release.beside)
                    if digests[file.name] != file.sha256), "")
    mark = taint.tainting(digest or release.weights.sha256, holding, known.parents)
    later = mark or taint.tainting(digest or release.weights.sha256, placed, known.parents)
    standing: Standing = "tainted" if mark else "pending" if later else "clean"
    return Served(model=model, standing="not what was released" if problem else standing,
                  path=store.served_at(release, release.weights.name), generation=release.generation, sha256=digest,
                  run=release.run, request_id=release.request_id, tainted_by=later.request_id if later else None,
                  problem=problem, underway=pointed.underway)


def lines(found: Live) -> list[str]:
    """What is served, a line each, for people."""
    said = []
    for one in found.served:
        underway = f"; {one.underway} is being rolled out" if one.underway else ""
        if one.path is None:
            said.append(f"{one.model}: {one.problem or 'not in service'}{underway}")
            continue
        by = f" by request {one.tainted_by}" if one.tainted_by else ""
        problem = f"; {one.problem}" if one.problem else ""
        said.append(f"{one.model}: {one.standing}{by}; generation {one.generation}, {str(one.sha256)[:12]}, released "
                    f"for {one.request_id} by run {one.run}, at {one.path}{underway}{problem}")
    said += [f"MLflow: version {one.version} of {one.model} ({one.sha256[:12]}) is tainted by request {one.tainted_by}"
             + (f"; aliases: {', '.join(one.aliases)}" if one.aliases else "") for one in found.descendants]
    if found.mlflow_not_asked:
        said.append(f"MLflow was not asked for descendants: {found.mlflow_not_asked}")
    return said or ["nothing was ever released here"]
