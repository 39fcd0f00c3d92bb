"""CLIP's image half (Radford et al., ICML 2021) as an extractor: a folder of the `transformers` library loads as it is.

Such a folder holds `config.json`, `model.safetensors` and `preprocessor_config.json`, which says to what size, mean and
deviation images are brought. Of a `CLIPModel` the half that reads text is left alone. Features are the image embedding,
what the library's `get_image_features` gives, before it is brought to length one.

Our reading: pixels are not rounded to whole numbers after resizing, as the library does that begins with image files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.models.classifiers import Embedder
from expunge.models.library_files import LibraryModel
from expunge.models.transformers_files import EXTRA, PREPROCESSOR, names_in_file, normalisation

ARCHITECTURE = "clip"  # its name in `expunge.models.BUILDERS`
CLASSES = ("CLIPModel", "CLIPVisionModelWithProjection")  # the library's, that embed images
OF_IMAGES = ("vision_model.", "visual_projection.")  # how the names of that half's tensors begin
COUNTED = "vision_model.embeddings.position_ids"  # 0, 1, 2 ...: earlier versions kept them in the file
AT_ONCE = 32  # images in evaluation, so that memory does not grow with a batch
FILTERS = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers


class Clip(LibraryModel, Embedder):
    """The library's vision model with its projection as one of ours."""

    def __init__(self, inner: nn.Module, prepare: Preparation, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(inner, dtype, names_in_file(inner))
        self.prepare = prepare

    def features(self, x: Tensor) -> Tensor:
        """Image embeddings [B, F] of images [B, C, H, W] in [-1, 1], grey or of three colours."""
        parts = (x,) if self.training else x.split(AT_ONCE)
        return torch.cat([self._inner[0](pixel_values=self.prepare(part)).image_embeds for part in parts])

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The image half of a file's tensors."""
        return {name: tensor for name, tensor in state.items() if name.startswith(OF_IMAGES) and name != COUNTED}


class Preparation:
    """What a folder's `preprocessor_config.json` says is done to images before the model looks at them.

    Raises:
        BadInput: it asks for what is not known here; names it.
    """

    def __init__(self, said: Mapping[str, Any]) -> None:
        self.size = _sides("size", said) if said.get("do_resize", True) else None
        self.crop = _sides("crop_size", said) if said.get("do_center_crop", True) else None
        self.mode = FILTERS.get(said.get("resample", 3), "")
        self.mean, self.std = normalisation(said)
        if not self.mode:
            raise _unknown("resample", said, "2 (bilinear) or 3 (bicubic)")
        if not said.get("do_rescale", True) or abs(255 * said.get("rescale_factor", 1 / 255) - 1) > 1e-6:
            raise _unknown("rescale_factor", said, "1/255, and do_rescale: true")
        if self.crop and len(self.crop) != 2:
            raise _unknown("crop_size", said, "height and width")

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] as the model wants them [B, 3, H', W']."""
        x = (images.expand(-1, 3, -1, -1) + 1) / 2
        if self.size:
            height, width = x.shape[2:]
            shortest = min(height, width)
            to = self.size if len(self.size) == 2 else [int(self.size[0] * side / shortest) for side in (height, width)]
            x = F.interpolate(x, size=list(to), mode=self.mode, antialias=True).clamp(0, 1)
        if self.crop:
            top, left = ((side - cut) // 2 for side, cut in zip(x.shape[2:], self.crop, strict=True))
            if top < 0 or left < 0:
                raise BadInput(f"images of {x.shape[2]}x{x.shape[3]} are smaller than what is cut out of them, "
                               f"{self.crop[0]}x{self.crop[1]} ({PREPROCESSOR})", "set its do_resize")
            x = x[:, :, top:top + self.crop[0], left:left + self.crop[1]]
        return x if self.mean is None or self.std is None else (x - self.mean.to(x)) / self.std.to(x)


def _sides(field: str, said: Mapping[str, Any]) -> tuple[int, ...]:
    """Height and width, or one number for the shortest side."""
    asked = said.get(field)
    if isinstance(asked, int):  # as earlier versions wrote it
        asked = {"shortest_edge": asked} if field == "size" else {"height": asked, "width": asked}
    for names in (("height", "width"), ("shortest_edge",)):
        found = tuple(asked.get(name) for name in names) if isinstance(asked, dict) else ()
        if found and all(isinstance(side, int) and side > 0 for side in found):
            return found  # type: ignore[return-value]
    raise _unknown(field, said, "height and width, or the shortest_edge")


def _unknown(field: str, said: Mapping[str, Any], known: str) -> BadInput:
    return BadInput(f"architecture {ARCHITECTURE!r}: its {PREPROCESSOR} asks for {field} {said.get(field)!r}",
                    f"write {known}")


def build_clip(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> Clip:
    """A freshly initialised image half.

    Args:
        config: the content of a folder's `config.json`: of both halves, or of the image half.
        preprocessor: that of its `preprocessor_config.json`, without which nobody knows what it should be shown.

    Raises:
        BadInput: the library is not installed; the config is of another model; `preprocessor` is missing or asks for
            what is not known here.
    """
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise BadInput(f"architecture {ARCHITECTURE!r}: the library transformers is not installed", EXTRA) from error
    if preprocessor is None:
        raise BadInput(f"architecture {ARCHITECTURE!r}: {PREPROCESSOR} is missing, which says how images are shown to "
                       "it", "write it there: CLIPImageProcessor.from_pretrained(name).save_pretrained(folder)")
    try:
        half = config
        if config.get("model_type") == "clip":  # of both; the outer one's length of the embedding is what counts
            half = config["vision_config"] | {"projection_dim": config.get("projection_dim", 512)}
        if half.get("model_type", "clip_vision_model") != "clip_vision_model":
            raise ValueError(f"it is of model_type {half['model_type']!r}")
        usual = CLIPVisionConfig()
        # In a record 1.0 is written as 1, and the library takes no whole number where it wants another.
        told: dict[str, Any] = {
            name: float(value) if type(value) is int and isinstance(getattr(usual, name, None), float) else value
            for name, value in half.items() if name != "model_type"}
        inner: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**told)).float()
    except Exception as error:  # whatever the library makes of a strange config
        said = " ".join(str(error).split())[:160]
        raise BadInput(f"architecture {ARCHITECTURE!r}: not the config of {' or '.join(CLASSES)} ({said})",
                       "check its config.json") from error
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    return Clip(inner, Preparation(preprocessor), dtype).eval()
