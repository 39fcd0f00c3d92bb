"""The plan: a trained model and a request come in; a candidate, a report and a verdict come out.

    1. fetch checkpoint     the parent, the oracle and the judge, and what else is named, against pinned digests
    2. curate forget set    what is unwanted, what is wanted, what is held back
    3. adapt                learn what it is that must be lost
    4. unlearn              make the candidate
    5. evaluate             measure parent and candidate with the same ruler
    6. gate                 verdict, and whether the door is open
    7. deploy               only if it is

Holdout, members, judge, extractor, reference and origin go to `evaluate` and nowhere else: training cannot reach what
it is measured with. Forget and retain, which it can, go there as well: a flow is asked about these very images.
"""

from kfp import dsl
from kfp.dsl import Artifact

from components.adapt.component import adapt
from components.curate_forget_set.component import curate_forget_set
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.fetch_checkpoint.component import fetch_checkpoint
from components.gate.component import gate
from components.unlearn.component import unlearn
from pipelines.caching import never_cached


@dsl.pipeline(name="unlearning", description="Make a trained image model forget, and measure what that did.")
def unlearning(
    request_uri: str, policy_uri: str, method: str, preset: str, overrides: str, seed: int, threads: int
) -> None:
    """`overrides` is a JSON object: the method's parameters that differ from the preset."""
    request = dsl.importer(artifact_uri=request_uri, artifact_class=Artifact, reimport=True).output
    policy = dsl.importer(artifact_uri=policy_uri, artifact_class=Artifact, reimport=True).output
    recipe = {"method": method, "preset": preset, "overrides": overrides, "seed": seed, "threads": threads}

    fetched = never_cached(fetch_checkpoint(request=request), "1. fetch checkpoint")
    parent, oracle = (fetched.outputs[name] for name in ("checkpoint", "oracle"))

    curated = never_cached(
        curate_forget_set(request=request, checkpoint=parent, oracle=oracle, policy=policy), "2. curate forget set")
    negative, positive, forget, retain = (
        curated.outputs[name] for name in ("negative", "positive", "forget", "retain"))

    adapted = never_cached(
        adapt(checkpoint=parent, negative=negative, forget=forget, retain=retain, **recipe), "3. adapt")

    unlearned = never_cached(
        unlearn(checkpoint=parent, oracle=oracle, adaptation=adapted.outputs["adaptation"], negative=negative,
                positive=positive, forget=forget, retain=retain, **recipe), "4. unlearn")
    candidate = unlearned.outputs["candidate"]

    laboratory = {name: fetched.outputs[name] for name in ("judge", "extractor", "reference", "origin")}
    laboratory |= {name: curated.outputs[name] for name in ("holdout", "members", "forget", "retain")}
    evaluated = never_cached(
        evaluate(request=request, policy=policy, checkpoint=parent, candidate=candidate, oracle=oracle, **laboratory),
        "5. evaluate")
    report = evaluated.outputs["report"]

    decided = never_cached(gate(request=request, candidate=candidate, report=report, policy=policy), "6. gate")

    with dsl.If(decided.outputs["Output"] == "open", name="the gate is open"):
        never_cached(
            deploy(request=request, candidate=candidate, report=report, policy=policy,
                   verdict=decided.outputs["verdict"]), "7. deploy")
