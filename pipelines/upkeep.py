"""What is done at given times on a cluster: the queue is worked, or what is live is looked at again. One step each.

The step gives the verb that a cron line would, on the workspace that all steps share. A request from the queue is
carried out inside of this step, all rooms of it, by the same supervisor as on a laptop: so it can be approved there,
and its statements are in the ledger. The step asks for what training asks for.
"""

from kfp import dsl

from components import IMAGE
from pipelines.caching import never_cached


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def keep_up(work: str) -> None:
    """Gives the verb for a kind of work; fails as it does, so that Kubeflow shows it."""
    from pipelines.cli import carry_out
    from pipelines.scheduling import VERBS

    code = carry_out([*VERBS[work]])
    if code:
        raise SystemExit(code)


@dsl.pipeline(name="upkeep", description="Work the queue of requests, or look again at what is live.")
def upkeep(work: str) -> None:
    """`work` is `queue` or `audit`."""
    never_cached(keep_up(work=work), "keep up")
