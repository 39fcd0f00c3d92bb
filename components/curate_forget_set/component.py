"""The door of `curate_forget_set`."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def curate_forget_set(  # noqa: D103 - its description is in README.md
    request: Input[Artifact], checkpoint: Input[Model], oracle: Input[Model], policy: Input[Artifact],
    negative: Output[Dataset], positive: Output[Dataset], forget: Output[Dataset], retain: Output[Dataset],
    holdout: Output[Dataset], members: Output[Dataset], statement: Output[Artifact],
) -> None:
    from pathlib import Path

    from components.curate_forget_set.step import curate_forget_set

    curate_forget_set(
        request=Path(request.path), checkpoint=Path(checkpoint.path), oracle=Path(oracle.path),
        policy=Path(policy.path), negative=Path(negative.path), positive=Path(positive.path),
        forget=Path(forget.path), retain=Path(retain.path), holdout=Path(holdout.path),
        members=Path(members.path), statement=Path(statement.path))
