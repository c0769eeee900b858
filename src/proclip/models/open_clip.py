"""open_clip's image towers by their own model config (extra ``open-clip``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import ProclipError
from .towers import ImageTower


class OpenClipImageTower(ImageTower):
    """The ``visual`` module of an open_clip model: [b, 3, s, s] -> image features [b, d]."""

    family = "open_clip"

    def __init__(self, visual: nn.Module, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.visual, self._config, self.embed_dim = visual, dict(config), embed_dim

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks, first to last."""
        trunk = getattr(self.visual, "trunk", None)
        found = trunk.blocks if trunk is not None else self.visual.transformer.resblocks  # type: ignore[union-attr]
        return nn.ModuleList(found)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        """``vision_cfg`` and ``quick_gelu`` of open_clip's model config."""
        return self._config

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> OpenClipImageTower:
        """An untrained tower of that architecture."""
        try:
            from open_clip.model import _build_vision_tower
        except (ImportError, RuntimeError) as error:
            raise ProclipError(
                f"an open_clip image tower needs open_clip and timm: pip install 'proclip-align[open-clip]' ({error})"
            ) from None
        visual = _build_vision_tower(embed_dim, dict(config["vision_cfg"]), bool(config["quick_gelu"]))
        return cls(visual, config, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to image features [b, d], not normalised."""
        features: Tensor = self.visual(pixel_values)
        return features
