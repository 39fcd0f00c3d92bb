"""The door of `adapt`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def adapt(  # noqa: D103 - its description is in README.md
    checkpoint: Input[Model], negative: Input[Dataset], forget: Input[Dataset], retain: Input[Dataset], method: str,
    preset: str, overrides: str, seed: int, threads: int, adaptation: Output[Artifact], statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.adapt.step import adapt

    adapt(checkpoint=Path(checkpoint.path), negative=Path(negative.path), forget=Path(forget.path),
          retain=Path(retain.path), method=method, preset=preset, overrides=overrides, seed=seed, threads=threads,
          adaptation=Path(adaptation.path), statement=Path(statement.path))
