"""The plan that continues a run which waited for approval: gate again, then deploy, from pinned digests."""

from kfp import dsl
from kfp.dsl import Artifact, Model

from components.deploy.component import deploy
from components.gate.component import gate
from pipelines.caching import never_cached


@dsl.pipeline(name="release", description="Put an approved candidate into service.")
def release(request_uri: str, candidate_uri: str, report_uri: str, policy_uri: str) -> None:
    """Every URI names what the run under approval made; the rooms check the digests themselves."""
    request = dsl.importer(artifact_uri=request_uri, artifact_class=Artifact, reimport=True).output
    policy = dsl.importer(artifact_uri=policy_uri, artifact_class=Artifact, reimport=True).output
    report = dsl.importer(artifact_uri=report_uri, artifact_class=Artifact, reimport=True).output
    candidate = dsl.importer(artifact_uri=candidate_uri, artifact_class=Model, reimport=True).output

    decided = never_cached(gate(request=request, candidate=candidate, report=report, policy=policy), "6. gate")

    with dsl.If(decided.outputs["Output"] == "open", name="the gate is open"):
        never_cached(
            deploy(request=request, candidate=candidate, report=report, policy=policy,
                   verdict=decided.outputs["verdict"]), "7. deploy")
