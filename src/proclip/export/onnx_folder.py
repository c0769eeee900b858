"""``proclip export onnx``: a model as a folder of ONNX graphs, a tokenizer and a manifest, checked against torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import to_dict
from ..errors import ProclipError
from ..files import write_folder, write_json
from ..models.clip import Clip
from ..models.proclip import ProCLIP
from ..onnx.manifest import FILE, AdapterPart, ImagePart, Manifest, Precision
from ..onnx.model import load
from .embedder_part import Embedder, check_tokens, describe, graph_of, load_in_float32, write_tokenizer
from .graph_files import write_graph
from .graphs import AdapterGraph, DoesNotExport, ImageGraph
from .origin import origin_of, with_adapter
from .parity import CHECK_TEXTS, Vectors, check_part, check_pictures, llm_like

PARTS = ("image", "adapter", "embedder")
"""What a model is taken apart into."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    manifest: Manifest
    """As it stands in the folder; ``parity`` and ``left_out`` are the news of it."""
    sizes: dict[str, int]
    """Bytes of each file."""


def export_onnx(
    model: ProCLIP | Clip,
    folder: str | Path,
    parts: Sequence[str] | None = None,
    precision: Precision = "float32",
    report: Callable[[str], object] = lambda line: None,
) -> ExportReport:
    """Write a model's parts as ONNX graphs for any batch, and check them against torch.

    Args:
        model: trained, of ours: a CLIP is refused; it stays as it is.
        folder: new or empty; it is there whole or not at all.
        parts: of `PARTS`. None: all, but a model whose LLM does not export is exported without it, and ``left_out``
            says why.
        precision: of weights and arithmetic.
        report: is told what is being done.

    Raises:
        ProclipError: it is no model of ours; a part or precision is not known; the folder holds files; a package is
            missing; the LLM cannot be found or is not the one that the adapter was trained with; a part does not
            export; an exported graph gives other vectors than torch.
    """
    model = with_adapter(model)
    folder, asked = Path(folder), _parts(PARTS if parts is None else parts)
    if precision not in get_args(Precision):
        raise ProclipError(f"precision {precision!r} is not known: {', '.join(get_args(Precision))} are")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ProclipError(f"{folder} is there and not empty: give a new folder")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ProclipError(f'{", ".join(missing)} missing: pip install "proclip-align[export]"')
    written: list[ExportReport] = []

    def fill(draft: Path) -> None:
        written.append(_Export(model, draft, asked, precision, report).run(strict=parts is not None))

    write_folder(folder, fill)
    return written[0]


def _parts(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts asked for, in the order of `PARTS`."""
    if isinstance(parts, str):
        raise ProclipError(f"parts: a list of names is wanted, not the string {parts!r}")
    if unknown := [part for part in parts if part not in PARTS]:
        raise ProclipError(f"no part {unknown[0]!r}: there are {', '.join(PARTS)}")
    if not parts:
        raise ProclipError(f"no part to export: there are {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in parts)


class _Export:
    """One export on its way: the manifest grows with every part, and what torch gives of each is kept for the end."""

    def __init__(
        self,
        model: ProCLIP,
        folder: Path,
        parts: Sequence[str],
        precision: Precision,
        report: Callable[[str], object],
    ) -> None:
        self.model, self.folder, self.parts, self.precision, self.report = model, folder, parts, precision, report
        self.wanted: dict[str, Vectors] = {}
        self.manifest = Manifest(
            embed_dim=model.adapter.embed_dim,
            llm_dim=model.adapter.llm_dim,
            precision=precision,
            logit_scale=float(model.logit_scale.detach()),
            logit_bias=None if model.logit_bias is None else float(model.logit_bias.detach()),
            made_from=origin_of(model),
        )

    def run(self, *, strict: bool) -> ExportReport:
        """Export the parts; with `strict` an LLM that does not export is an error."""
        for part in self.parts:
            with self._telling_of_the_others(part):
                try:
                    {"image": self.image, "adapter": self.adapter, "embedder": self.embedder}[part]()
                except DoesNotExport as error:
                    if strict or part != "embedder":
                        raise
                    self._leave_embedder_out(str(error))
        self.report("comparing with torch")
        write_json(self.folder / FILE, to_dict(self.manifest))
        exported, parity = load(self.folder), {}
        for part, wanted in self.wanted.items():
            with self._telling_of_the_others("embedder" if part == "text" else part):
                parity[part] = check_part(exported, part, wanted, llm_like(self.model.adapter))
        self.manifest = replace(self.manifest, parity=parity)
        write_json(self.folder / FILE, to_dict(self.manifest))
        return ExportReport(self.manifest, {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())})

    def image(self) -> None:
        """The image tower."""
        self.report("image tower")
        pixels = self.model.pixel_values(check_pictures())
        graph = ImageGraph(self.model.image_tower, tuple(pixels.shape[1:]))
        with torch.no_grad():
            self.wanted["image"] = graph(pixels).numpy()
        part = ImagePart(preprocess=self.model.preprocess.to_config())
        name = f"the image tower (family {self.model.image_tower.family!r})"
        write_graph(graph, self.folder / part.file, self.precision, name)
        self.manifest = replace(self.manifest, image=part)

    def adapter(self) -> None:
        """The adapter."""
        self.report("adapter")
        self.wanted["adapter"] = self._text_embeds(torch.from_numpy(llm_like(self.model.adapter)))
        part = AdapterPart()
        write_graph(AdapterGraph(self.model.adapter), self.folder / part.file, self.precision, "the adapter")
        self.manifest = replace(self.manifest, adapter=part)

    def embedder(self) -> None:
        """The LLM."""
        self.report("LLM")
        embedder: Embedder = load_in_float32(self.model)
        graph, vectors = graph_of(embedder), embedder.encode(CHECK_TEXTS).embeds
        part = describe(embedder, graph)
        write_tokenizer(embedder, self.folder / part.tokenizer)
        check_tokens(embedder, part, self.folder / part.tokenizer)
        write_graph(graph, self.folder / part.file, self.precision, "the LLM")
        self.wanted["embedder"] = vectors.numpy()
        if self.manifest.adapter is not None:
            self.wanted["text"] = self._text_embeds(vectors)
        self.manifest = replace(self.manifest, embedder=part)

    def _text_embeds(self, llm_embeds: Tensor) -> Vectors:
        adapter = copy.deepcopy(self.model.adapter).float().cpu().eval()
        with torch.no_grad():
            found: Vectors = F.normalize(adapter(llm_embeds), dim=-1).numpy()
        return found

    @contextmanager
    def _telling_of_the_others(self, part: str) -> Iterator[None]:
        """An error over one part also says how the others are exported without it."""
        try:
            yield
        except ProclipError as error:
            if not (others := [name for name in self.parts if name != part]):
                raise
            raise type(error)(f"{error}; without this part: --parts {','.join(others)}") from None

    def _leave_embedder_out(self, why: str) -> None:
        for pattern in ("embedder.*", "tokenizer.json"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.manifest = replace(self.manifest, left_out={"embedder": why})
