"""The door of `fetch_checkpoint`."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fetch_checkpoint(  # noqa: D103 - its description is in README.md
    request: Input[Artifact], checkpoint: Output[Model], oracle: Output[Model], judge: Output[Model],
    extractor: Output[Model], reference: Output[Model], origin: Output[Model], statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.fetch_checkpoint.step import fetch_checkpoint

    fetch_checkpoint(request=Path(request.path), checkpoint=Path(checkpoint.path), oracle=Path(oracle.path),
                     judge=Path(judge.path), extractor=Path(extractor.path), reference=Path(reference.path),
                     origin=Path(origin.path), statement=Path(statement.path))
