"""Two deployers at once: copies of one workspace, as on two machines whose locks do not reach each other."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

from expunge.contracts import Release
from expunge.errors import WorkspaceBusy
from expunge.settings import Workspace


def two_deployers_at_once(monkeypatch, store, workspace, publish):
    """The copy, the release that won and what the other was told; both had placed theirs before either was served."""
    copy = Workspace(shutil.copytree(workspace.root, workspace.root.with_name("copy"), symlinks=True))
    place, both = store.place, threading.Barrier(2)

    def place_then_wait(self, release):
        place(self, release)
        both.wait(30)

    monkeypatch.setattr(store, "place", place_then_wait)

    def deploy(workspace, weights):
        try:
            return publish(workspace, weights)
        except WorkspaceBusy as error:
            return error

    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(deploy, (workspace, copy), (b"here", b"there")))
    (won,) = (one for one in ended if isinstance(one, Release))
    (lost,) = (one for one in ended if isinstance(one, WorkspaceBusy))
    return copy, won, str(lost)
