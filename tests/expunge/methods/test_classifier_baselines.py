"""What a classifier's forgetting is measured against: each is repeatable and resumable, and does what it says."""

import pytest
import torch
from small_classifier import CLASSES, accuracy, learned, quarters, small_problem, split, with_state
from small_gan import Killed, KilledOnce, same
from torch import nn

from expunge.contracts import Interface
from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods import find
from expunge.methods.classroom import lesson
from expunge.methods.training import Deck, Material, Samples, Session
from expunge.models import Classifier
from expunge.models.guests import as_classifier

TRAINED = ["erwp", "fine_tune_classifier", "random_labels", "retrain_classifier"]
ALL = [*TRAINED, "head_deletion"]


def quiet(seed=3):
    return Session(seed, threads=1)


def run(name, session=None, problem=None, **changed):
    method = find(name, "classifier")
    parent, material = problem or small_problem()
    params = method.parameters("debug", changed)
    session = session or quiet()
    adaptation = method.adapt(parent, material, params, quiet(session.seed))
    return method.unlearn(parent, adaptation, material, params, session)


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    first = run(name, steps=5)
    assert same(first, run(name, steps=5))
    assert not same(first, run(name, quiet(4), steps=5))


@pytest.mark.parametrize("name", TRAINED)
def test_a_killed_run_continues_to_the_same_bits(name):
    kept = []
    with pytest.raises(Killed):
        run(name, KilledOnce(3, kept, threads=1), steps=53, batch=4)
    assert same(run(name, steps=53, batch=4), run(name, KilledOnce(3, kept, threads=1), steps=53, batch=4))


@pytest.mark.parametrize("name", ALL)
def test_the_parent_is_left_as_it_was_and_all_of_its_state_comes_back(name):
    problem = small_problem()
    before = {key: tensor.clone() for key, tensor in problem[0].state_dict().items()}
    problem[0].train()  # whoever hands it over in another mode gets it back in that
    changed = {} if name == "head_deletion" else {"steps": 3}
    state = run(name, problem=problem, **changed)
    assert same(before, problem[0].state_dict())
    assert problem[0].training
    assert state.keys() == before.keys()
    assert not same(before, state)


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(name):
    parent, material = small_problem()
    spoiled = Samples(torch.full_like(material.retain.images, torch.nan), labels=material.retain.labels)
    with pytest.raises(NonFiniteLoss, match=r"at step 0"):
        run(name, problem=(parent, Material(forget=material.forget, retain=spoiled)), steps=3)


def test_the_parent_knows_all_classes():
    assert min(accuracy(learned(), [1])) > 0.95


def test_a_deleted_class_is_never_named_and_its_features_are_the_parents():
    model = with_state(run("head_deletion"))
    lost, kept = accuracy(model, [1])
    assert lost == 0
    assert kept >= accuracy(learned(), [1])[1]
    images = quarters(8, 5).images
    assert torch.equal(model.features(images), learned().features(images))


def test_random_labels_make_a_class_go_and_retraining_never_meets_it():
    lost, kept = accuracy(with_state(run("random_labels", steps=60)), [1])
    assert lost < 0.2
    assert kept > 0.9
    lost, kept = accuracy(with_state(run("retrain_classifier", steps=80, batch=32, rate=1e-2)), [1])
    assert lost == 0
    assert kept > 0.9


def test_retraining_keeps_nothing_of_the_parent_but_its_shape():
    other = learned()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor += 1
    _, material = small_problem()
    assert same(run("retrain_classifier", steps=3), run("retrain_classifier", problem=(other, material), steps=3))


@pytest.mark.parametrize("name", TRAINED)
def test_running_statistics_stay_the_parents_unless_asked(name):
    changed = {"frozen": {"batch_norm": "frozen"}, "batch": {"batch_norm": "batch"}}
    moved = {}
    for mode, setting in changed.items():
        state = run(name, steps=3, **setting)
        moved[mode] = not torch.equal(state["bn1.running_mean"], learned().bn1.running_mean)
    assert moved == {"frozen": name == "retrain_classifier", "batch": True}  # the retrained one's begin anew


class Bare(nn.Module):
    """Somebody's own classifier: it puts out logits and no more."""

    def __init__(self, last=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.last = last

    def forward(self, x):
        out = self.layers(x)
        return out if self.last is None else self.last(out)


@pytest.mark.parametrize("name", ALL)
def test_a_guest_is_made_to_forget_as_our_own_are(name):
    _, material = small_problem()
    guest = as_classifier(Bare(), Interface())
    state = run(name, problem=(guest, material))
    assert state.keys() == guest.state_dict().keys()
    assert not same(state, guest.state_dict())


def test_a_head_that_is_not_last_is_not_deleted():
    _, material = small_problem()
    guest = as_classifier(Bare(nn.Tanh()), Interface())
    with pytest.raises(BadInput, match="needs a model whose last linear layer puts out its logits"):
        run("head_deletion", problem=(guest, material))


class WithoutStatistics(Classifier):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)
        self.head = nn.Linear(64, CLASSES)

    def features(self, x):
        return self.norm(x).flatten(1)


def wrong(**changed):
    """The small problem's material with something about it changed."""
    _, good = small_problem()
    return Material(**{"forget": good.forget, "retain": good.retain, "restricted": (1,)} | changed)


def labelled(labels):
    return Samples(torch.zeros(len(labels), 1, 8, 8), labels=torch.tensor(labels))


@pytest.mark.parametrize(("material", "said"), [
    (wrong(restricted=(1, 2), retain=labelled([0, 3])), "restricted class 2 has no sample: add labelled images of it"),
    (wrong(restricted=(0, 1, 2, 3)), "all 4 classes are restricted: leave at least one"),
    (wrong(restricted=(7,)), r"class 7 is restricted, and the model's head has 4 classes"),
    (wrong(retain=labelled([0, 5])), r"a retain image is of class 5, and the model's head has 4 classes: give labels"),
    (wrong(forget=labelled([1, -1])), r"a forget image is of class -1, and the model's head has 4 classes"),
    (wrong(retain=labelled([0, 1])), "class 1 is restricted, and among the images that are to stay"),
    (wrong(retain=Samples(torch.zeros(2, 1, 8, 8))), "its retain images have no labels: give each image its class"),
    (wrong(forget=None), "it needs forget samples, which are real images: name them in the request: training"),
    (wrong(retain=None), "it needs retain samples"),
])
def test_what_cannot_be_is_refused_with_a_remedy(material, said):
    with pytest.raises(BadInput, match=said) as refused:
        lesson(learned(), material, quiet(), by=["forget", "retain"])
    assert refused.value.exit_code == 2


def test_a_batch_normalisation_without_running_statistics_is_refused_by_name():
    with pytest.raises(BadInput, match=r"norm has no running statistics.*track_running_stats=True"):
        lesson(WithoutStatistics(), small_problem()[1], quiet(), by=["retain"])


def test_without_a_word_on_classes_the_labels_of_what_is_to_go_are_restricted():
    _, material = small_problem(restricted=(0, 2))
    found = lesson(learned(), Material(forget=material.forget, retain=material.retain), quiet(), by=["retain"])
    assert found.restricted == (0, 2)
    assert found.remaining == (1, 3)


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 7), (3, 64), (10, 3)])
def test_a_deck_shows_every_image_before_it_shows_one_again(count, batch):
    deck = Deck(labelled([0] * count), batch, quiet(), 1)
    rows = torch.cat([deck.rows(step) for step in range(3 * count)])
    assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in rows[: len(rows) // count * count].split(count))
    assert torch.equal(Deck(labelled([0] * count), batch, quiet(), 1).rows(5), deck.rows(5)), "whenever it is asked"
    assert not torch.equal(rows[:count], rows[count : 2 * count]) or count < 4


def test_splitting_keeps_all_images():
    samples = quarters(8, 0)
    material = split(samples, [1])
    assert len(material.forget) + len(material.retain) == 8
