"""Model files: equal bytes for equal tensors, and one clear line for whatever cannot be read."""

import pickle

import pytest
import torch

from expunge.errors import BadInput
from expunge.models import ModelSpec, build, load, read, save

SPEC = ModelSpec(architecture="dcgan", config={"width": 8, "discriminator_width": 8}, family="gan", classes=("0", "1"))


@pytest.fixture
def gan():
    torch.manual_seed(0)
    return build(SPEC.architecture, **SPEC.config)


def test_a_saved_model_loads_as_it_was(gan, tmp_path):
    save(tmp_path / "gan.safetensors", gan.state_dict(), SPEC)
    state, spec = read(tmp_path / "gan.safetensors")
    assert spec == SPEC
    assert all(torch.equal(state[name], tensor) for name, tensor in gan.state_dict().items())
    z = torch.randn(3, gan.latent_dim)
    assert torch.equal(load(tmp_path / "gan.safetensors")(z), gan(z))


def test_equal_tensors_give_equal_bytes_in_whatever_order_they_come(gan, tmp_path):
    state = gan.state_dict()
    save(tmp_path / "a", state, SPEC)
    save(tmp_path / "b", dict(reversed(list(state.items()))), SPEC)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"], "no temporary file stays behind"


def test_a_truncated_file_is_refused_by_name(gan, tmp_path):
    file = tmp_path / "gan.safetensors"
    save(file, gan.state_dict(), SPEC)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"gan\.safetensors is truncated"):
        load(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "nothing.safetensors")


def test_a_file_without_a_spec_needs_an_architecture(gan, tmp_path):
    torch.save(gan.state_dict(), tmp_path / "gan.pt")
    with pytest.raises(BadInput, match="does not say its architecture"):
        load(tmp_path / "gan.pt")
    z = torch.randn(3, gan.latent_dim)
    assert torch.equal(load(tmp_path / "gan.pt", SPEC.architecture, SPEC.config)(z), gan(z))


def test_a_pickle_that_would_run_code_does_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(BadInput, match="weights_only=True"):
        load(tmp_path / "bad.pt", "dcgan")
    assert not (tmp_path / "ran").exists()


def test_the_first_three_tensors_that_do_not_fit_are_named(gan, tmp_path):
    save(tmp_path / "gan", gan.state_dict(), SPEC)
    with pytest.raises(BadInput, match=r"discriminator.look.bias is \[8\], expected \[48\].*; and \d+ more"):
        load(tmp_path / "gan", "dcgan")
