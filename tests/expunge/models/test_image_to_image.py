"""Image-to-image models: their libraries' folders, what encoders and decoders use, and what completions keep."""

import json
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from small_image_to_image import CENTRE, CONFIGS, KINDS, MAE, SCHEDULER, centre, digits, error, fresh, trained

from expunge.errors import BadInput
from expunge.models import build
from expunge.models.image_to_image import refuse_other
from expunge.models.image_to_image_files import LAYOUTS, PREPROCESSOR, layout_of, open_folder, write_folder
from expunge.models.image_to_image_files import SCHEDULER as SCHEDULER_FILE
from expunge.models.masks import hidden

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LIBRARY = {"mae": transformers.ViTMAEForPreTraining, "vq-gan": diffusers.VQModel,
           "diffusion-inpainting": diffusers.UNet2DModel}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6):
    return digits()[0][:count]


def written(kind, folder):
    """A folder as the library itself writes it, and the library's model."""
    theirs = fresh(kind)._inner[0]
    theirs.save_pretrained(folder)
    if kind == "diffusion-inpainting":
        diffusers.DDPMScheduler.from_config(SCHEDULER).save_pretrained(folder)
    return theirs


def more(kind):
    return {"sampling_steps": 10} if kind == "diffusion-inpainting" else {}


# ------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_as_it_is_and_answers_as_it_did(kind, tmp_path):
    theirs = written(kind, tmp_path / "theirs")
    ours, before = open_folder(tmp_path / "theirs", **more(kind)), fresh(kind)
    ours_state, their_state = ours._inner[0].state_dict(), theirs.state_dict()
    assert all(torch.equal(ours_state[name], their_state[name]) for name in their_state)
    assert torch.equal(ours.complete(images(), centre(), stream()), before.complete(images(), centre(), stream()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_the_library_opens_and_finds_the_same_in_it(kind, tmp_path):
    written(kind, tmp_path / "theirs")
    model = trained(kind)
    write_folder(tmp_path / "ours", model, model.state_dict(), like=tmp_path / "theirs")
    again = LIBRARY[kind].from_pretrained(tmp_path / "ours")
    inner = model._inner[0].state_dict()
    assert again.state_dict().keys() == inner.keys()
    assert all(torch.equal(tensor, inner[name]) for name, tensor in again.state_dict().items())
    assert {file.name for file in (tmp_path / "ours").iterdir()} == {
        file.name for file in (tmp_path / "theirs").iterdir()}
    for file in (tmp_path / "theirs").glob("*.json"):
        assert json.loads((tmp_path / "ours" / file.name).read_text()) == json.loads(file.read_text())
    drawn = open_folder(tmp_path / "ours", **more(kind)).complete(images(), centre(), stream())
    assert torch.equal(drawn, model.complete(images(), centre(), stream()))


def test_a_masked_autoencoder_under_the_names_of_its_authors_loads_too(tmp_path):
    from safetensors.torch import load_file, save_file

    model = written("mae", tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    published = {name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): tensor
                 for name, tensor in state.items()}
    assert published.keys() != state.keys()
    save_file(published, file, metadata={"format": "pt"})
    assert torch.equal(open_folder(tmp_path)._inner[0].decoder.decoder_layers[0].mlp.fc1.weight,
                       model.decoder.decoder_layers[0].mlp.fc1.weight)


def test_files_with_earlier_names_of_attention_load_too(tmp_path):
    from safetensors.torch import load_file, save_file

    written("diffusion-inpainting", tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state, before = load_file(file), open_folder(tmp_path).state_dict()
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    assert state.keys() != before.keys()
    save_file(state, file)
    again = open_folder(tmp_path).state_dict()
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_numbers_keep_the_type_of_their_file(tmp_path):
    written("mae", tmp_path / "theirs").half().save_pretrained(tmp_path / "theirs")
    model = open_folder(tmp_path / "theirs")
    write_folder(tmp_path / "ours", model, model.state_dict(), like=tmp_path / "theirs")
    assert (tmp_path / "ours" / "model.safetensors").stat().st_size < 1.1 * (
        tmp_path / "theirs" / "model.safetensors").stat().st_size
    assert transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "ours").dtype == torch.float16


def test_a_pickle_is_not_opened(tmp_path):
    written("vq-gan", tmp_path)
    state = fresh("vq-gan")._inner[0].state_dict()
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(BadInput, match=r"its weights are a pickle, .*: open it where you trust it") as refused:
        open_folder(tmp_path)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_weights_in_several_files_are_refused(tmp_path):
    fresh("vq-gan")._inner[0].save_pretrained(tmp_path / "parts", max_shard_size="50KB")
    with pytest.raises(BadInput, match=r"its weights are in several files: save it again in one"):
        open_folder(tmp_path / "parts")


def test_what_is_no_such_folder_is_said_in_a_line(tmp_path):
    with pytest.raises(BadInput, match=r"not a folder of ViTMAEForPreTraining, VQModel, UNet2DModel"):
        open_folder(tmp_path)
    assert layout_of(tmp_path / "nowhere") is None
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert layout_of(tmp_path) is None
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match=r"config\.json is no JSON object"):
        open_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(BadInput, match=r"diffusion_pytorch_model\.safetensors is missing"):
        open_folder(tmp_path)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    written("vq-gan", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_vq_embeddings": 7}))
    with pytest.raises(BadInput, match=r"quantize\.embedding\.weight is \[32, 8\], expected \[7, 8\]"):
        open_folder(tmp_path)


@pytest.mark.parametrize(("kind", "changed", "problem"), [
    ("mae", {"model_type": "vit"}, r"not the config of a ViTMAEForPreTraining"),
    ("mae", {"norm_pix_loss": True}, r"which complete no image: bring one .* norm_pix_loss: false"),
    ("mae", {"image_size": [8, 8]}, r"not square"),
    ("vq-gan", {"_class_name": "UNet2DModel"}, r"not the config of a VQModel"),
    ("vq-gan", {"out_channels": 3}, r"1 channels go in, 3 come out: bring a model that is shown 1 image and draws one"),
    ("vq-gan", {"down_block_types": ["Nonsense"] * 2}, r"not the config of a VQModel"),
    ("diffusion-inpainting", {"in_channels": 1}, r"bring a model that is shown 2 images and draws one"),
    ("diffusion-inpainting", {"num_class_embeds": 10}, r"it is told a class"),
    ("diffusion-inpainting", {"sample_size": None}, r"names no sample_size"),
])
def test_a_config_that_does_not_suit_is_refused(kind, changed, problem):
    with pytest.raises(BadInput, match=problem):
        build(kind, **CONFIGS[kind] | {"config": CONFIGS[kind]["config"] | changed})


@pytest.mark.parametrize(("changed", "problem"), [
    ({"scheduler": SCHEDULER | {"prediction_type": "v_prediction"}}, "predicts v_prediction, not the noise"),
    ({"sampling_steps": 101}, "101 sampling_steps: use 1 to 100"),
])
def test_a_loop_that_does_not_suit_is_refused(changed, problem):
    with pytest.raises(BadInput, match=problem):
        build("diffusion-inpainting", **CONFIGS["diffusion-inpainting"] | changed)


# ------------------------------------------------------------------------------------------ what models do


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", ["centre", "border", "random"])
def test_a_completion_keeps_exactly_what_is_visible_and_fills_the_rest(kind, mask):
    model = trained(kind)
    shown = hidden(**CENTRE | {"kind": mask, "count": 6, "random": stream()})
    drawn = model.complete(images(), shown, stream())
    inside = shown.expand_as(drawn)
    assert torch.equal(drawn[~inside], images()[~inside])
    assert not torch.equal(drawn[inside], images()[inside])
    assert drawn.abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_hidden_does_not_show_in_the_completion(kind):
    other = torch.where(centre(), -images(), images())
    model = trained(kind)
    assert torch.equal(model.complete(images(), centre(), stream()), model.complete(other, centre(), stream()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_one_completes_better_than_the_mean_image(kind):
    seen = digits()[0]
    inside = centre().expand_as(seen)
    mean = (seen - seen.mean(dim=0))[inside].square().mean().item()
    assert error(trained(kind), seen[::10]) < 0.9 * mean < error(fresh(kind), seen[::10])


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_finds_follows_from_images_mask_and_chance_alone(kind):
    model = trained(kind)
    chance = model.chance(6, stream(1))
    with torch.no_grad():
        first, again = (model.encode(images(), centre(), chance) for _ in range(2))
        alone = model.encode(images()[2:3], centre(), tuple(some[2:3] for some in chance))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(torch.allclose(one[2:3], other, atol=1e-5) for one, other in zip(first, alone, strict=True))


def test_diffusion_compares_what_the_librarys_own_pass_hands_across():
    model = trained("diffusion-inpainting")
    chance = model.chance(6, stream(1))
    seen, handles = [], []
    inner = model._inner[0]
    for part in (inner.conv_in, *inner.down_blocks, inner.mid_block):
        handles.append(part.register_forward_hook(lambda _, __, out: seen.extend(
            out[1] if isinstance(out, tuple) else [out])))
    with torch.no_grad():
        gamma, noise, given = chance
        noised = gamma.sqrt() * images() + (1 - gamma).sqrt() * noise
        both = torch.cat([torch.where(centre(), given, images()), torch.where(centre(), noised, images())], dim=1)
        inner(both, gamma.flatten())
        for handle in handles:
            handle.remove()
        found = model.encode(images(), centre(), chance)
    assert len(found) == len(seen) == 5
    assert all(torch.equal(one, other) for one, other in zip(found, seen, strict=True))


def test_a_mask_shows_a_masked_autoencoder_the_patches_that_it_does_not_hide():
    model = trained("mae")
    shown = hidden("random", 0.5, (8, 8), 2, 6, stream(3))
    assert model.encode(images(), shown)[0].shape == (6, 1 + 8, MAE["hidden_size"])
    assert model._inner[0].config.mask_ratio == 0.75, "the library's model is left as it was"


def test_a_loss_learns_from_another_target_what_it_says():
    for kind in KINDS:
        model = trained(kind)
        with torch.no_grad():
            own, other = (model.loss(images(), centre(), stream(), target=target) for target in (None, -images()))
            assert torch.equal(own, model.loss(images(), centre(), stream(), target=images()))
        assert other > own


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_uses_nothing_that_unlearning_may_move(kind):
    """What the encoder hands over is held, all of the encoder's parameters are changed: what comes out is the same."""
    model = trained(kind)
    inner = model._inner[0]
    parts = {"mae": lambda: [inner.vit], "vq-gan": lambda: [inner.quant_conv],
             "diffusion-inpainting": lambda: [inner.conv_in, *inner.down_blocks, inner.mid_block]}[kind]()
    held = {}
    handles = [part.register_forward_hook(lambda part, _, out: held.setdefault(part, out)) for part in parts]
    before = model.complete(images(), centre(), stream()) if kind != "diffusion-inpainting" else one_pass(inner)
    with torch.no_grad():
        for parameter in model.encoder_parameters().values():
            parameter += torch.randn(parameter.shape, generator=stream())
    after = model.complete(images(), centre(), stream()) if kind != "diffusion-inpainting" else one_pass(inner)
    assert torch.equal(before, after)
    for handle in handles:
        handle.remove()
    changed = model.complete(images(), centre(), stream()) if kind != "diffusion-inpainting" else one_pass(inner)
    assert not torch.equal(before, changed), "they do matter"


def one_pass(inner):
    with torch.no_grad():
        return inner(torch.randn(2, 2, 8, 8, generator=stream()), torch.tensor([0.3, 0.8])).sample


def test_encoders_own_what_no_decoder_uses_and_shared_embeddings_are_no_encoders():
    names = {kind: set(fresh(kind).encoder_parameters()) for kind in KINDS}
    assert all(name.startswith("vit.") for name in names["mae"])
    assert "vit.embeddings.position_embeddings" not in names["mae"]
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in names["vq-gan"])
    assert not any(name.startswith("time_embedding") for name in names["diffusion-inpainting"])
    for kind in KINDS:
        assert 0 < len(names[kind]) < len(dict(fresh(kind).named_parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_anew_without_a_trace_of_what_it_was(kind):
    states = []
    for model in (trained(kind), fresh(kind, seed=7)):
        torch.manual_seed(3)
        anew = deepcopy(model)
        anew.reset_parameters()
        states.append(anew.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert error(anew, images(200)) > 1.3 * error(trained(kind), images(200))


def test_one_built_anew_knows_where_a_patch_is():
    model = fresh("mae")._inner[0]
    for places in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        assert len(places[0].unique(dim=0)) == 17


def test_images_are_normalised_as_the_folder_says_and_drawn_as_they_came(tmp_path):
    written("mae", tmp_path)
    (tmp_path / PREPROCESSOR).write_text(json.dumps({"do_normalize": True, "image_mean": [0.3], "image_std": [0.4]}))
    model, plain = open_folder(tmp_path), fresh("mae")
    with torch.no_grad():
        normal = ((images() + 1) / 2 - 0.3) / 0.4
        assert torch.allclose(model.encode(images(), centre())[0], plain.encode(normal, centre())[0], atol=1e-5)
    write_folder(tmp_path / "again", model, model.state_dict(), like=tmp_path)
    assert (tmp_path / "again" / PREPROCESSOR).is_file()


def test_without_a_schedule_of_its_own_palettes_is_taken():
    model = build("diffusion-inpainting", config=CONFIGS["diffusion-inpainting"]["config"])
    assert model.sampling_steps == 2000
    assert model._scheduler.alphas_cumprod[-1].item() == pytest.approx(4.4e-5, rel=0.02)


@pytest.mark.parametrize(("given", "problem"), [
    (torch.zeros(2, 3, 8, 8), "images of 3x8x8, 2 of them; the model completes 1x8x8"),
    (torch.zeros(2, 1, 9, 9), "images of 1x9x9"),
    (torch.zeros(0, 1, 8, 8), "0 of them"),
    (torch.full((2, 1, 8, 8), 255.0), "values from 255 to 255: scale them"),
    (torch.full((2, 1, 8, 8), torch.nan), "values from nan"),
])
def test_images_of_another_size_or_mode_are_refused(given, problem):
    with pytest.raises(BadInput, match=f"training: .*{problem}"):
        refuse_other("training", fresh("mae"), given)


def test_masks_that_show_more_of_one_image_than_of_another_are_refused():
    uneven = torch.cat([hidden("centre", 0.2, (8, 8), 2), hidden("centre", 0.6, (8, 8), 2)])
    with pytest.raises(BadInput, match="more patches of one image than of another"):
        fresh("mae").encode(images(2), uneven)


def test_a_missing_library_is_said_with_what_to_install(monkeypatch):
    for kind, name in (("mae", "transformers"), ("vq-gan", "diffusers"), ("diffusion-inpainting", "diffusers")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(BadInput, match=r"is not installed: pip install 'expunge\[image-to-image\]'"):
            build(kind, **CONFIGS[kind])


def test_every_layout_has_its_scheduler_and_its_builder():
    assert {layout.architecture for layout in LAYOUTS.values()} == set(KINDS)
    assert SCHEDULER_FILE in LAYOUTS["UNet2DModel"].beside.values()


def test_libraries_are_imported_only_when_a_model_is_built():
    said = "import sys, expunge.models, expunge.methods.image_to_image, expunge.models.image_to_image_files; " \
           "sys.exit(str({'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
