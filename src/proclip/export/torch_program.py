"""``proclip export torch``: the image tower as a program of ``torch.export`` (.pt2), read back and checked."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import ProclipError
from ..files import make_folder, replacing
from ..models.clip import Clip
from ..models.proclip import ProCLIP
from .graphs import ImageGraph, quiet, traced
from .origin import origin_of, with_adapter
from .parity import check_pictures, compare

ABOUT = "proclip.json"
"""Name of the JSON text inside the file: preprocessing, temperature, and what it was made from."""


def export_torch(model: ProCLIP | Clip, path: str | Path) -> dict[str, float]:
    """Write the image tower as a program: pixel values [b, 3, s, s] to L2-normalised image embeds [b, d], float32.

    Args:
        model: trained, of ours: a CLIP is refused; it stays as it is.
        path: of the file, ``.pt2``; replaced if it is there.

    Returns:
        how far the program, read back, is from the tower: ``largest_difference`` and ``least_cosine``.

    Raises:
        ProclipError: it is no model of ours, the path is not a .pt2 file's or cannot be written, the tower does not
            export, or the program gives other vectors.
    """
    model = with_adapter(model)
    path = Path(path)
    if path.is_dir():
        raise ProclipError(f"{path} is a folder: give the name of a file that ends in .pt2")
    if path.suffix != ".pt2":
        raise ProclipError(f"{path}: the file's name must end in .pt2")
    pixels = model.pixel_values(check_pictures())
    graph = ImageGraph(model.image_tower, tuple(pixels.shape[1:])).eval()
    program = traced(graph, f"the image tower (family {model.image_tower.family!r})")
    about = {
        "preprocess": model.preprocess.to_config(),
        "embed_dim": model.adapter.embed_dim,
        "logit_scale": float(model.logit_scale.detach()),
        "logit_bias": None if model.logit_bias is None else float(model.logit_bias.detach()),
        "made_from": origin_of(model),
    }
    make_folder(path.parent)
    with replacing(path) as draft, quiet():
        with draft.open("wb") as file:
            torch.export.save(program, file, extra_files={ABOUT: json.dumps(about, ensure_ascii=False)})
        with draft.open("rb") as file, torch.no_grad():
            run = torch.export.load(file).module()
            found = torch.cat([run(pixels), *(run(picture[None]) for picture in pixels)])
            wanted = graph(pixels).repeat(2, 1)
        return compare(found.numpy(), wanted.numpy(), "float32", "the image tower")
