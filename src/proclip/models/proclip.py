"""The model: CLIP's image tower, a frozen LLM-based embedder and the adapter between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AdapterConfig, EmbedderConfig, from_dict, to_dict
from ..errors import ProclipError
from ..files import read_json, write_json
from .adapter import Adapter
from .clip import checkpoint_folder
from .embedder import LazyEmbedder, TextEmbedder
from .preprocess import ImagePreprocess, read_image
from .towers import ImageTower, build_image_tower
from .zero_shot import build_zero_shot_classifier

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_LOGIT_SCALE = math.log(100)
FORMAT_VERSION = 1


class ProCLIP(nn.Module):
    """Image tower, adapter and temperature; the LLM is loaded when a text is first encoded.

    Args:
        image_tower: [b, 3, s, s] -> image features [b, d].
        adapter: LLM embeddings [b, h] -> text features [b, d].
        logit_scale: log of the inverse temperature, in [0, ln 100]; without limit where there is a bias.
        preprocess: of the image tower.
        embedder: the LLM-based embedder, or how to load it.
        embedder_identity: what the embedder with which the adapter was trained said of itself; another one is refused.
        clip_name: the checkpoint that the image tower comes from.
        logit_bias: of SigLIP's sigmoid loss, where stage 2 trains with it; the probability that a picture and a text
            belong together is then ``sigmoid(exp(logit_scale) similarity + logit_bias)``.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        adapter: Adapter,
        logit_scale: float,
        preprocess: ImagePreprocess,
        embedder: EmbedderConfig | TextEmbedder,
        embedder_identity: Mapping[str, Any] | None = None,
        clip_name: str | None = None,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        if image_tower.embed_dim != adapter.embed_dim:
            raise ProclipError(
                f"the adapter gives vectors of width {adapter.embed_dim}, the image tower of {image_tower.embed_dim}"
            )
        self.image_tower, self.adapter, self.preprocess = image_tower, adapter, preprocess
        largest = MAX_LOGIT_SCALE if logit_bias is None else math.inf
        self.logit_scale = nn.Parameter(torch.tensor(min(logit_scale, largest)))
        self.logit_bias = nn.Parameter(torch.tensor(logit_bias)) if logit_bias is not None else None
        self._embedder = None if isinstance(embedder, EmbedderConfig) else embedder
        self.embedder_config = embedder if isinstance(embedder, EmbedderConfig) else None
        self.embedder_identity = dict(embedder_identity) if embedder_identity is not None else None
        self.clip_name = clip_name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def embedder(self) -> TextEmbedder:
        """The LLM-based embedder; its weights are loaded when a text is first encoded.

        Raises:
            ProclipError: it is not the one with which the adapter was trained; the message names what differs.
        """
        if self._embedder is None:
            assert self.embedder_config is not None
            self._embedder = LazyEmbedder(self.embedder_config, str(self.device), self.embedder_identity)
        return self._embedder

    @torch.no_grad()
    def encode_image(self, images: Sequence[Image | str | Path], batch_size: int = 64) -> Tensor:
        """Pictures to image embeds.

        Args:
            images: Pillow images or paths.
            batch_size: pictures a step.

        Returns:
            [n, d] float32 on the CPU, L2-normalised.

        Raises:
            ProclipError: a path is missing or is not an image.
        """
        if isinstance(images, (str, Path)):
            raise ProclipError(f"encode_image takes a list of pictures: [{str(images)!r}]")
        self.eval()
        chunks = []
        for start in range(0, len(images), batch_size):
            pixels = torch.stack([self.preprocess(_open(image)) for image in images[start : start + batch_size]])
            chunks.append(F.normalize(self.image_tower(pixels.to(self.device)).float(), dim=-1).cpu())
        return torch.cat(chunks) if chunks else torch.empty(0, self.adapter.embed_dim)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Texts of any length the LLM reads, in any of its languages, to text embeds.

        Returns:
            [n, d] float32 on the CPU, L2-normalised; [d] for a single string.

        Raises:
            ProclipError: a text is empty.
        """
        if isinstance(texts, str):
            return self.encode_text([texts])[0]
        return self.project_text(self.embedder.encode(texts).embeds)

    @torch.no_grad()
    def project_text(self, llm_embeds: Tensor) -> Tensor:
        """Embeddings that the LLM gave earlier, [n, h], to text embeds, [n, d] float32 on the CPU, L2-normalised."""
        self.eval()
        return F.normalize(self.adapter(llm_embeds.to(self.device)).float(), dim=-1).cpu()

    @staticmethod
    def similarity(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """Cosine of every image with every text, [n, m], in [-1, 1]; inputs L2-normalised."""
        return image_embeds @ text_embeds.T

    def zero_shot_classifier(self, classnames: Sequence[str], templates: Sequence[str] = ("a photo of {}",)) -> Tensor:
        """One column a class: the mean of its prompts' text embeds, with the embedder's prompt for class names.

        Args:
            classnames: c names.
            templates: prompt templates with ``{}`` for the name.

        Returns:
            [d, c], L2-normalised columns; ``image_embeds @ classifier`` is the score of each class.
        """
        embedder = self.embedder.for_classes()
        return build_zero_shot_classifier(
            lambda texts: self.project_text(embedder.encode(texts).embeds), classnames, templates
        )

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write ``config.json``, ``model.safetensors``, ``preprocessor_config.json`` and the model card.

        Args:
            folder: made if needed.
            card: text of the model card's figures, Markdown.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", self._config())
        write_json(folder / "preprocessor_config.json", self.preprocess.to_config())
        (folder / "README.md").write_text(_model_card(self, card))

    def _config(self) -> dict[str, Any]:
        if self.embedder_config is None:
            raise ProclipError("a model made around an embedder object has no embedder config to save")
        return {
            "model_type": "proclip",
            "clip": self.clip_name,
            "format_version": FORMAT_VERSION,
            "embed_dim": self.adapter.embed_dim,
            "llm_dim": self.adapter.llm_dim,
            "adapter": to_dict(self.adapter.config),
            "embedder": to_dict(self.embedder_config),
            "embedder_identity": self.embedder_identity,
            "image_tower": {"family": self.image_tower.family, "config": self.image_tower.config},
        }

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None, device: str = "cpu") -> ProCLIP:
        """Load a model that `save_pretrained` wrote.

        Args:
            name: folder or hub id.
            revision: of the hub's repository.
            device: where to put the weights.

        Raises:
            ProclipError: not a model of ours, a version this code does not know, or weights that do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = checkpoint_folder(str(name), revision)
        path, weights = folder / "config.json", folder / "model.safetensors"
        config = read_json(path) if path.is_file() else {}
        if config.get("model_type") != "proclip":
            raise ProclipError(f"{folder} is not a proclip model: config.json with model_type 'proclip' is missing")
        if config["format_version"] != FORMAT_VERSION:
            raise ProclipError(f"{path}: format_version {config['format_version']}, this code reads {FORMAT_VERSION}")
        embed_dim, llm_dim = config["embed_dim"], config["llm_dim"]
        try:
            tensors = load_file(weights)
        except (FileNotFoundError, SafetensorError) as error:
            raise ProclipError(f"{weights} cannot be read: {error}") from None
        model = cls(
            build_image_tower(config["image_tower"]["family"], config["image_tower"]["config"], embed_dim),
            Adapter(llm_dim, embed_dim, from_dict(AdapterConfig, config["adapter"], where="adapter")),
            0.0,
            ImagePreprocess.from_folder(folder),
            from_dict(EmbedderConfig, config["embedder"], where="embedder"),
            config["embedder_identity"],
            config["clip"],
            0.0 if "logit_bias" in tensors else None,
        )
        load_weights(model, tensors, str(weights))
        return model.to(device).eval()

    def push_to_hub(self, repo_id: str, card: str = "", private: bool = False) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub.

        Returns:
            the address of the commit.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, card)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, strictly.

    Raises:
        ProclipError: names or shapes differ; the message names the first few and `source`.
    """
    own = module.state_dict()
    wrong = [f"{n} is missing" for n in own if n not in tensors]
    wrong += [f"{n} is not known" for n in tensors if n not in own]
    wrong += [
        f"{n} has shape {tuple(t.shape)}, wanted {tuple(own[n].shape)}"
        for n, t in tensors.items()
        if n in own and own[n].shape != t.shape
    ]
    if wrong:
        raise ProclipError(f"{source} does not fit the model: {'; '.join(wrong[:5])}")
    module.load_state_dict(dict(tensors))


def _open(image: Image | str | Path) -> Image:
    from PIL import Image as PillowImage

    if isinstance(image, PillowImage.Image):
        return image
    return read_image(image)


def _model_card(model: ProCLIP, figures: str) -> str:
    config = model._config()
    facts: Iterable[tuple[str, object]] = (
        ("shared space", f"{config['embed_dim']} dimensions"),
        ("image tower", f"{sum(p.numel() for p in model.image_tower.parameters()):,} parameters"),
        ("adapter", f"{sum(p.numel() for p in model.adapter.parameters()):,} parameters, {config['adapter']}"),
        ("embedder", f"{config['embedder']}"),
    )
    lines = [
        "---",
        "library_name: proclip",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        "",
        "# ProCLIP model",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += ["", "```python", "import proclip", "", 'model = proclip.ProCLIP.from_pretrained("PATH")']
    lines += [
        'scores = model.similarity(model.encode_image(["picture.jpg"]), model.encode_text(["a caption"]))',
        "```",
        "",
    ]
    return "\n".join(lines) + (f"\n{figures.strip()}\n" if figures else "")
