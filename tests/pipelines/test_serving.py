"""Taking a model out of service, and what the run that made it says then."""

from tests_support import put

from pipelines.runs import Run


def test_a_release_that_was_cut_before_it_could_say_so_is_taken_out_all_the_same(copy_of_demo, expunge, workspace_of):
    run = Run.find(workspace_of(copy_of_demo), "forget-8")
    put(run, state="releasing")
    done = expunge(copy_of_demo, "withdraw", "digits", "--as", "grace", "--reason", "a complaint")
    assert done.code == 0, done.err
    assert run.state().state == "withdrawn"
    assert expunge(copy_of_demo, "release", "forget-8").code == 2
