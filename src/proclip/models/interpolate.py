"""WiSE-FT: between the weights of the original and the tuned image tower (Wortsman et al. 2021, arXiv 2109.01903)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProclipError
from .proclip import misfits
from .towers import ImageTower


@torch.no_grad()
def interpolated_weights(original: ImageTower, tuned: ImageTower, alpha: float) -> dict[str, Tensor]:
    """``(1 - alpha) original + alpha tuned``, weight by weight, computed in float32.

    Args:
        original: image tower of the CLIP that tuning began with.
        tuned: the same architecture after tuning.
        alpha: in [0, 1]; 0 gives the original and 1 the tuned weights, bit for bit.

    Returns:
        a state dict of the tuned tower's types.

    Raises:
        ProclipError: `alpha` is out of range, or the towers differ in family, architecture, names or shapes.
    """
    if not 0 <= alpha <= 1:
        raise ProclipError(f"alpha must be in [0, 1], not {alpha}")
    if original.family != tuned.family:
        raise ProclipError(f"the original image tower is of family {original.family!r}, the tuned of {tuned.family!r}")
    before, after = original.state_dict(), tuned.state_dict()
    if wrong := misfits(before, after):
        raise ProclipError(f"the tuned image tower is not of the original's architecture: {'; '.join(wrong[:5])}")
    mixed = {}
    for name, tensor in after.items():
        if not tensor.is_floating_point():
            if not torch.equal(before[name].to(tensor.device), tensor):
                raise ProclipError(f"the image towers differ in {name}, which is not a weight")
            mixed[name] = tensor.clone()
            continue
        old, new = before[name].to(tensor.device).float(), tensor.float()
        # At the ends the other weights have no part, whatever they hold (0 times infinity is not a number).
        value = {0.0: old.clone(), 1.0: new.clone()}.get(alpha)
        mixed[name] = ((1 - alpha) * old + alpha * new if value is None else value).to(tensor.dtype)
    return mixed
