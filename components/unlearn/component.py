"""The door of `unlearn`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def unlearn(  # noqa: D103 - its description is in README.md
    checkpoint: Input[Model], oracle: Input[Model], adaptation: Input[Artifact], negative: Input[Dataset],
    positive: Input[Dataset], forget: Input[Dataset], retain: Input[Dataset], method: str, preset: str,
    overrides: str, seed: int, threads: int, candidate: Output[Model], statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.unlearn.step import unlearn

    unlearn(checkpoint=Path(checkpoint.path), oracle=Path(oracle.path), adaptation=Path(adaptation.path),
            negative=Path(negative.path), positive=Path(positive.path), forget=Path(forget.path),
            retain=Path(retain.path), method=method, preset=preset, overrides=overrides, seed=seed, threads=threads,
            candidate=Path(candidate.path), statement=Path(statement.path))
