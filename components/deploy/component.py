"""The door of `deploy`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(  # noqa: D103 - its description is in README.md
    request: Input[Artifact], candidate: Input[Model], report: Input[Artifact], policy: Input[Artifact],
    verdict: Input[Artifact], release: Output[Model], statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.deploy.step import deploy

    deploy(request=Path(request.path), candidate=Path(candidate.path), report=Path(report.path),
           policy=Path(policy.path), verdict=Path(verdict.path), release=Path(release.path),
           statement=Path(statement.path))
