"""The built-in digits and models: what a newcomer's first run stands on."""

import numpy as np
import pytest

from expunge import assets
from expunge.errors import BadInput

MOST = 2 * 1024 * 1024  # bytes: what may lie in Git per model


def test_the_splits_are_fixed_disjoint_and_stratified():
    (train, train_labels), (holdout, holdout_labels) = assets.digits("train"), assets.digits("holdout")
    assert train.shape == (1258, 1, 16, 16)
    assert holdout.shape == (539, 1, 16, 16)
    assert train.dtype == holdout.dtype == np.float32
    assert train_labels.dtype == np.int64
    assert train.min() >= -1
    assert train.max() <= 1
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in holdout}
    shares = np.bincount(holdout_labels) / (np.bincount(holdout_labels) + np.bincount(train_labels))
    assert np.allclose(shares, 0.3, atol=0.005)


def test_callers_cannot_spoil_the_digits_for_each_other():
    assets.digits("train")[0][:] = 7
    assert assets.digits("train")[0].max() <= 1


def test_enlarging_agrees_with_bilinear_interpolation():
    torch = pytest.importorskip("torch")
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images / 8 - 1).float()[:, None]
    expected = torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear")
    ours = np.concatenate([assets.digits("train")[0], assets.digits("holdout")[0]])
    by_bytes = sorted(ours.reshape(len(ours), -1).tolist())
    assert np.allclose(by_bytes, sorted(expected.numpy().reshape(len(ours), -1).tolist()), atol=1e-6)


@pytest.mark.parametrize("name", assets.MODELS)
def test_a_model_ships_with_its_card_and_stays_small(name):
    assert 0 < assets.path(name).stat().st_size <= MOST
    assert "Measured when built" in assets.path(name).with_suffix(".md").read_text()


def test_built_in_uris_resolve():
    assert assets.resolve("builtin://digits/oracle") == assets.path("oracle")
    assert assets.resolve("builtin://digits/holdout") == "holdout"
    for unknown in ("builtin://digits/nobody", "builtin://letters/dcgan", "dcgan"):
        with pytest.raises(BadInput, match="builtin://digits/dcgan"):
            assets.resolve(unknown)


def test_the_shipped_models_are_as_good_as_promised():
    torch = pytest.importorskip("torch")
    from expunge.models import load

    images, labels = assets.digits("holdout")
    for name in ("oracle", "judge"):
        named = load(assets.path(name))(torch.from_numpy(images)).argmax(dim=1).numpy()
        assert (named == labels).mean() >= 0.985
    gan, judge = load(assets.path("dcgan")), load(assets.path("judge"))
    with torch.no_grad():
        seen = judge(gan(gan.draw_latents(2000, torch.Generator().manual_seed(5)))).softmax(dim=1)
    shares = np.bincount(seen.argmax(dim=1).numpy(), minlength=10) / 2000
    assert shares.min() >= 0.05
    assert shares.max() <= 0.20
    assert seen.max(dim=1).values.mean() >= 0.96


def test_using_the_digits_imports_neither_torch_nor_scikit_learn():
    import subprocess
    import sys

    check = "import sys; from expunge import assets; assets.digits('train'); " \
            "sys.exit(bool({'torch', 'sklearn'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    images, labels, _ = assets._all_digits()
    assert (labels == theirs.target).all()
    assert np.allclose(images.mean(axis=(1, 2, 3)), (theirs.images / 8 - 1).mean(axis=(1, 2)), atol=1e-6)
