"""Runs one plan with kfp.local, as a process of its own that dies with the supervisor which started it.

python -m pipelines.engine PLAN ARGUMENTS.json PIPELINE_ROOT [IMAGE_ID]
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from expunge.room import die_with_run
from expunge.settings import Workspace
from expunge.stores.telemetry import PIPELINE_VARIABLE
from pipelines.preparing import prepared


def main() -> None:
    """Compiles and runs the plan named on the command line; a failing room ends it with status 1."""
    die_with_run(Workspace.locate())
    plan, arguments, root = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    os.environ[PIPELINE_VARIABLE] = plan
    in_containers = len(sys.argv) > 4
    with ExitStack() as while_it_runs:
        if not in_containers and sys.platform == "linux":
            # kfp puts this in the place of `python3` in the steps' commands.
            sys.executable = while_it_runs.enter_context(prepared())
        from kfp import local

        if plan == "unlearning":
            from pipelines.unlearning import unlearning as pipeline
        else:
            from pipelines.release import release as pipeline
        runner = local.SubprocessRunner(use_venv=False)
        if in_containers:
            from pipelines.containers import steps_in_containers

            runner = steps_in_containers(sys.argv[4], Path(arguments["request_uri"]))
        local.init(runner, pipeline_root=root)
        try:
            pipeline(**arguments)
        except RuntimeError as error:  # kfp has printed the step's own output above
            sys.exit(f"{plan} stopped: {error}")


if __name__ == "__main__":
    main()
