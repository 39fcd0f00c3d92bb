"""What the tests of image-to-image models share: digits of 8x8 pixels, and tiny models that complete them a little."""

import functools
from dataclasses import dataclass
from typing import Any

import torch

from expunge.contracts import Hidden
from expunge.measure.policy import preset_bytes
from expunge.models import build
from expunge.models.image_to_image import asked_to_complete, fit_completions
from expunge.models.masks import hidden

KINDS = ("mae", "vq-gan", "diffusion-inpainting")
MAE = {"model_type": "vit_mae", "image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 32,
       "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "decoder_hidden_size": 32,
       "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64,
       "initializer_range": 0.05}
VQ_GAN = {"in_channels": 1, "out_channels": 1, "sample_size": 8, "block_out_channels": [16, 16], "latent_channels": 8,
          "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
          "num_vq_embeddings": 32, "norm_num_groups": 4}
DIFFUSION = {"in_channels": 2, "out_channels": 1, "sample_size": 8, "block_out_channels": [16, 16],
             "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
             "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
SCHEDULER = {"num_train_timesteps": 100, "beta_start": 1e-4, "beta_end": 0.1}
CONFIGS = {"mae": {"config": MAE}, "vq-gan": {"config": VQ_GAN},
           "diffusion-inpainting": {"config": DIFFUSION, "scheduler": SCHEDULER, "sampling_steps": 10}}
STEPS = {"mae": 400, "vq-gan": 150, "diffusion-inpainting": 200}
RATES = {"mae": 2e-3, "vq-gan": 3e-3, "diffusion-inpainting": 3e-3}
CENTRE = {"kind": "centre", "ratio": 0.25, "size": (8, 8), "cell": 2}


@functools.cache
def digits():
    """Images [1797, 1, 8, 8] in [-1, 1] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)


def fresh(kind, seed=0):
    torch.manual_seed(seed)
    return build(kind, **CONFIGS[kind]).eval()


def centre():
    return hidden(**CENTRE)


@functools.cache
def _trained(kind):
    model, threads = fresh(kind), torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits whatever ran before
    fit_completions(model, digits()[0], centre(), STEPS[kind], 64, RATES[kind], torch.Generator().manual_seed(0))
    torch.set_num_threads(threads)
    return model.state_dict()


def trained(kind):
    """A model after seconds of training."""
    model = fresh(kind)
    model.load_state_dict(_trained(kind))
    return model


def behind(model, mask="random", ratio=0.25, cell=0):
    """The model, asked to complete what such masks hide."""
    return asked_to_complete(model, Hidden(mask=mask, ratio=ratio, cell=cell))


def error(model, images, mask=None):
    """Mean squared error of the hidden part."""
    mask = centre() if mask is None else mask
    drawn = model.complete(images, mask, torch.Generator().manual_seed(5))
    inside = mask.expand_as(images)
    return (drawn - images)[inside].square().mean().item()


FORGOTTEN = ["6", "9"]  # of which the judge sees little where their middle is noise


@dataclass(frozen=True)
class OfSeconds:
    """From a folder to a release in seconds, of the built-in digits: for the example's script, its request, the gate."""

    training: tuple[str, ...]
    request: dict[str, Any]
    policy: bytes = b""


def _asked(params, policy="debug", **config):
    return {"forget": {"classes": FORGOTTEN}, "policy": policy, "threads": 1, "sampling": {"lessons": 0},
            "checkpoint": {"uri": "parent", "hidden": {"mask": "centre", "ratio": 0.25}, "config": config},
            "method": {"name": "image_to_image", "preset": "debug", "params": params}}


# A diffusion model of seconds is made to forget half-way, at a price: the policy that ships for such runs says no. This
# one still says no to what has forgotten nothing.
HALF_WAY = (preset_bytes("debug").replace(b"name: debug", b"name: half-way")
            .replace(b"limit: 0.2\n", b"limit: 0.5\n").replace(b"limit: 0.9\n", b"limit: 1.5\n"))
OF_SECONDS = {
    "mae": OfSeconds(("--width", "16", "--steps", "300", "--rate", "3e-3"),
                     _asked({"steps": 400, "rate": 3e-3, "alpha": 1.5})),
    "vq-gan": OfSeconds(("--width", "8", "--steps", "250"), _asked({"steps": 400, "rate": 3e-3, "alpha": 2.0})),
    "diffusion-inpainting": OfSeconds(
        ("--width", "8", "--steps", "400", "--rate", "4e-3"),
        _asked({"scale": "relative", "steps": 250, "rate": 8e-3, "alpha": 4.0}, "half-way", sampling_steps=10),
        HALF_WAY),
}
