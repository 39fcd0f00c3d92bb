"""What is handed to others about a release: the bundle, and with it a summary for the public and a letter."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.digests import write_atomically
from expunge.settings import Workspace
from pipelines.runs import Run


def export(workspace: Workspace, name: str, bundle: Path, *, weights: bool = True, reasons: bool = False,
           checkpoints: Iterable[Path] = (), sign_model: bool = False, deep: bool = False, summary: Path | None = None,
           letter: Path | None = None) -> dict[str, Any]:
    """Writes a release's bundle and whatever else is asked for; see `expunge.evidence.bundle.writing.export`.

    Returns what was written, and what the bundle's own verifier says of it.
    """
    from expunge.evidence.bundle import certificate, writing
    from expunge.evidence.bundle.gathered import gather

    found = gather(workspace, Run.find(workspace, name).name)
    done = writing.export(found, bundle, weights=weights, reasons=reasons, checkpoints=checkpoints,
                          sign_model=sign_model, deep=deep)
    made, written = certificate.of(found, deep=deep), {"bundle": str(bundle)}
    for what, file, text in (("summary", summary, certificate.summary), ("letter", letter, certificate.letter)):
        if file is not None:
            write_atomically(file, text(made).encode())
            written[what] = str(file)
    return {"run": found.run, "model": made.model, "claim": made.claim, "sha256": done.sha256, "written": written,
            "says": [list(line) for line in done.said], "not_shown": list(made.not_shown)}
