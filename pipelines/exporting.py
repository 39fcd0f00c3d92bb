"""What is handed to others about a run: the bundle, and of a release a summary for the public and a letter."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.digests import write_atomically
from expunge.errors import BadInput
from expunge.runs import Run
from expunge.settings import Workspace


def export(workspace: Workspace, name: str, bundle: Path, *, weights: bool = True, reasons: bool = False,
           checkpoints: Iterable[Path] = (), sign_model: bool = False, deep: bool = False, summary: Path | None = None,
           letter: Path | None = None) -> dict[str, Any]:
    """Writes a run's bundle and whatever else is asked for; see `expunge.evidence.bundle.writing.export`.

    Returns what was written, what the bundle's own verifier says of it, and what was left out.

    Raises:
        BadInput: the run came to no verdict, or a summary or a letter is asked for and nothing was released.
    """
    from expunge.evidence.bundle import certificate, writing
    from expunge.evidence.bundle.gathered import gather

    found = gather(workspace, Run.find(workspace, name).name)
    pages = [(what, file, text) for what, file, text in (
        ("summary", summary, certificate.summary), ("letter", letter, certificate.letter)) if file is not None]
    if pages and not found.is_released:
        raise BadInput(f"{pages[0][0]}: run {found.run} released nothing", "only a release has one: leave it out")
    done = writing.export(found, bundle, weights=weights, reasons=reasons, checkpoints=checkpoints,
                          sign_model=sign_model, deep=deep)
    made = certificate.of(found, deep=deep) if found.is_released else None
    for _, file, text in pages:
        assert made is not None
        write_atomically(file, text(made).encode())
    return {"run": found.run, "model": found.request.model, "released": found.is_released,
            "claim": found.candidate.claim, "sha256": done.sha256, "says": [list(line) for line in done.said],
            "left_out": list(done.left_out),
            "written": {"bundle": str(bundle), **{what: str(file) for what, file, _ in pages}},
            "not_shown": list(made.not_shown) if made else [text for kind, text in done.said if kind == "NOT SHOWN"]}
