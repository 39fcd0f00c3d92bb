"""In how many processes a training room works, and which methods it refuses to divide."""

import pytest

from expunge.errors import BadInput
from expunge.methods import BUILT_IN
from expunge.together import PROCESSES_VARIABLE, SHARING, processes, together


@together
def work(entered, *, method):
    entered.append(method)


def test_alone_every_method_works_and_together_only_those_that_share(monkeypatch):
    done = []
    work(done, method="extrapolation")
    assert done == ["extrapolation"]
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    with pytest.raises(BadInput, match=r"'extrapolation' trains in one process, and profile multi-gpu .* use the profile gpu or"):
        work(done, method="extrapolation")
    assert done == ["extrapolation"]
    assert set(SHARING) <= set(BUILT_IN)


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", "65", "\u0662"])
def test_nonsense_is_no_number_of_processes(monkeypatch, said):
    monkeypatch.setenv(PROCESSES_VARIABLE, said)
    with pytest.raises(BadInput, match=PROCESSES_VARIABLE):
        processes()
