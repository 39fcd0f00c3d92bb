"""The verbs about a cluster: the plans as Kubeflow's documents, and runs of them, now or at given times."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.output import AsJson, finish, print_lines

Image = Annotated[str, typer.Option(help="What every step runs in: registry/name@sha256:...")]
ProfileName = Annotated[str, typer.Option("--profile", help="What steps ask for: cpu, gpu or multi-gpu.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="PART.FIELD=VALUE", help=(
    "Change the profile, such as training.timeout=7200; may be given more than once."))]
Unpinned = Annotated[bool, typer.Option("--unpinned", help="Allow an image without a digest, to try things out.")]


def compile_plans(
    image: Image,
    folder: Annotated[Path, typer.Argument(help="Where the Kubeflow documents go.")] = Path("build"),
    profile: ProfileName = "gpu",
    changes: Changes = None,
    unpinned: Unpinned = False,
    as_json: AsJson = False,
) -> None:
    """Write the plans as Kubeflow Pipelines v2 documents."""
    from expunge.digests import write_atomically
    from pipelines import compiling, profiles

    found, pinned = profiles.profile(profile, changes or ()), compiling.require_digest(image, unpinned)
    made = {plan: compiling.compile_plan(plan, pinned, found) for plan in compiling.PLANS}
    for plan, text in made.items():
        write_atomically(folder / f"{plan}.yaml", text.encode())
    written = {plan: str(folder / f"{plan}.yaml") for plan in made}
    finish(written, as_json, lambda out: print_lines(out, written.values()))
