"""The door of `gate`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(  # noqa: D103 - its description is in README.md
    request: Input[Artifact], candidate: Input[Model], report: Input[Artifact], policy: Input[Artifact],
    verdict: Output[Artifact], statement: Output[Artifact],
) -> str:
    # The token is the one unnamed output: kfp.local does not resolve named ones in a condition, and then
    # skips the branch without an error (kfp 2.17).
    from pathlib import Path

    from components.gate.step import gate

    gate(request=Path(request.path), candidate=Path(candidate.path), report=Path(report.path),
         policy=Path(policy.path), verdict=Path(verdict.path), statement=Path(statement.path))
    return Path(verdict.path, "token.txt").read_text()
