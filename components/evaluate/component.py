"""The door of `evaluate`."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(  # noqa: D103 - its description is in README.md
    request: Input[Artifact], policy: Input[Artifact], checkpoint: Input[Model], candidate: Input[Model],
    oracle: Input[Model], judge: Input[Model], extractor: Input[Model], reference: Input[Model],
    origin: Input[Model], forget: Input[Dataset], retain: Input[Dataset], holdout: Input[Dataset],
    members: Input[Dataset], report: Output[Artifact], page: Output[HTML], metrics: Output[Metrics],
    statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.evaluate.step import evaluate, show

    evaluate(request=Path(request.path), policy=Path(policy.path), checkpoint=Path(checkpoint.path),
             candidate=Path(candidate.path), oracle=Path(oracle.path), judge=Path(judge.path),
             extractor=Path(extractor.path), reference=Path(reference.path), origin=Path(origin.path),
             forget=Path(forget.path), retain=Path(retain.path), holdout=Path(holdout.path),
             members=Path(members.path), report=Path(report.path), statement=Path(statement.path))
    for name, value in show(Path(report.path), Path(page.path)).items():
        metrics.log_metric(name, value)
