"""The verbs about a cluster: the plans as Kubeflow's documents, and runs of them, now or at given times."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from expunge.errors import BadInput
from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines

IMAGE = "What every step runs in: registry/name@sha256:..."
STORE = "Where request and policy are kept for the cluster: s3://bucket/prefix."

RequestFile = Annotated[Path, typer.Argument(metavar="REQUEST", dir_okay=False,
                                             help="The request: a YAML or JSON file.")]
Endpoint = Annotated[str, typer.Option(help="Kubeflow's address, such as https://kubeflow.example/pipeline.")]
Store = Annotated[str, typer.Option(help=STORE)]
Image = Annotated[str, typer.Option(help=IMAGE)]
Experiment = Annotated[str | None, typer.Option(help="One that Kubeflow knows; its default one without this.")]
Namespace = Annotated[str | None, typer.Option(help="Where Kubeflow serves several users: whose.")]
Account = Annotated[str | None, typer.Option("--service-account", help="As whom the steps run in Kubernetes.")]
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


def submit(
    request: RequestFile, endpoint: Endpoint, store: Store, image: Image, profile: ProfileName = "gpu",
    changes: Changes = None, experiment: Experiment = None, namespace: Namespace = None, account: Account = None,
    again: Annotated[bool, typer.Option(help="Make another attempt although this request was run.")] = False,
    unpinned: Unpinned = False, as_json: AsJson = False,
) -> None:
    """Carry out a request on a cluster. The same command finds its run again, and goes on with one that failed."""
    from pipelines import compiling, profiles, submitting
    from pipelines.kubeflow import Kubeflow

    found, pinned = profiles.profile(profile, changes or ()), compiling.require_digest(image, unpinned)
    kubeflow = Kubeflow(endpoint, namespace)
    ordered = submitting.order(request, Workspace.locate().require(), store)
    made = submitting.submit(ordered, kubeflow, pinned, found, experiment, account, again)
    finish(asdict(made), as_json, lambda out: print_lines(out, [
        f"{made.run} is {'begun' if made.begun else 'there already'}: {made.id}", made.address]))


def schedule(
    cron: Annotated[str, typer.Option(help="When: second, minute, hour, day, month, day of the week. '0 0 2 * * *' is "
                                           "every night at two. On this machine the seconds may be left out.")],
    request: Annotated[Path | None, typer.Argument(
        metavar="[REQUEST]", dir_okay=False, help="The request to carry out, a YAML or JSON file; or one of these two.",
    )] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Work the queue of filed requests.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Evaluate again what is live.")] = False,
    endpoint: Annotated[str | None, typer.Option(
        help="Kubeflow's address; without it, lines for this machine.")] = None,
    store: Annotated[str | None, typer.Option(help=STORE)] = None,
    image: Annotated[str | None, typer.Option(help=IMAGE)] = None,
    profile: ProfileName = "gpu", changes: Changes = None, experiment: Experiment = None, namespace: Namespace = None,
    account: Account = None, unpinned: Unpinned = False, as_json: AsJson = False,
) -> None:
    """Carry out a request, the queue or an audit at given times: on a cluster, or by lines for cron or systemd."""
    if [request is not None, queue, audit].count(True) != 1:
        raise BadInput("schedule: what is to be done is not said, or said twice", "name a request, --queue or --audit")
    from pipelines import cron as times
    from pipelines import scheduling

    workspace = Workspace.locate().require()
    work = "queue" if queue else "audit"
    if endpoint is None:
        from expunge.contracts import Request, read_record

        if request is not None:
            read_record(Request, request)
        verb = scheduling.VERBS[work] if request is None else ("run", str(request.absolute()))
        found = scheduling.lines(verb, workspace, times.read(cron, fields=5))
        finish(asdict(found), as_json, lambda out: print_lines(out, [
            "# crontab -e", found.crontab or "# (a crontab knows no seconds)", "", "# or expunge.service",
            found.service, "# and expunge.timer", found.timer]))
        return
    if (store is None and request is not None) or image is None:
        raise BadInput(f"{'--image' if image is None else '--store'}: is needed with --endpoint", "see --help")
    from pipelines import compiling, profiles, submitting
    from pipelines.kubeflow import Kubeflow

    when = times.read(cron)
    wanted, pinned = profiles.profile(profile, changes or ()), compiling.require_digest(image, unpinned)
    kubeflow = Kubeflow(endpoint, namespace)
    if request is None or store is None:
        made = scheduling.schedule_upkeep(work, kubeflow, when, pinned, wanted, experiment, account)
    else:
        made = scheduling.schedule(submitting.order(request, workspace, store), kubeflow, when, pinned, wanted,
                                   experiment, account)
    finish(asdict(made), as_json, lambda out: print_lines(out, [
        f"{made.run} is {'scheduled' if made.begun else 'scheduled already'} at {made.cron}: {made.id}", made.address]))
