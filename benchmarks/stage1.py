"""Stage 1, pairs a second: from the store against a loop that runs CLIP's text encoder on every step.

    python benchmarks/stage1.py            # ViT-B/32's text tower; ten minutes on two cores

Both train an adapter of the paper's shape (4 blocks, expansion 2) with L_ins + L_struct in batches of 1,024. Ours takes
both vectors of a text from embedding stores on disk (float16 and float32, as `proclip embed` writes them); the loop has
the LLM's vectors in memory and computes the teacher's from 77 tokens, as CLIP's tokenizer pads them, or from 20, as
long as a short caption is. What either can reach depends on the adapter's width, for the adapter's own products of
matrices remain: 576 is SmolLM2's, 1,024 Qwen3-0.6B's, 4,096 that of the paper's 8B. The loop takes a minute a step and
runs at 1,024 alone. The limit is those products by themselves, with the same shapes, taken in turn.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import Turns, command_line, figure, in_turn, write
from torch import Tensor, nn
from training import Steps, random_clip
from transformers import CLIPModel

from proclip.config import AdapterConfig, DistillConfig, DistillLossConfig, OptimConfig
from proclip.data.dataset import ImageCaptions
from proclip.data.loaders import DistillBatches
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.data.store_format import StoreDtype
from proclip.models.adapter import Adapter
from proclip.train.stages import TextDistillation

TOKENS = (77, 20)
CHUNK = 128
"""Texts that the loop encodes at a time; more of them are no faster on a CPU."""


def stores(folder: Path, rows: int, llm_dim: int, embed_dim: int, batch: int = 1024) -> DistillBatches:
    """Random vectors of `rows` captions in stores, and what stage 1 reads from them."""
    torch.manual_seed(0)
    keys = [f"{number:07d}" for number in range(rows)]
    lines = (json.dumps({"file_name": f"{key}.jpg", "key": key, "short": f"caption {key}"}) for key in keys)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    captions = [caption_key(key, "short") for key in keys]
    kinds: dict[str, tuple[int, StoreDtype]] = {"llm": (llm_dim, "float16"), "teacher": (embed_dim, "float32")}
    for name, (dim, dtype) in kinds.items():
        with StoreWriter(folder / name, {"kind": name}, dim, dtype) as writer:
            for start in range(0, rows, 16384):
                part = captions[start : start + 16384]
                writer.add(part, F.normalize(torch.randn(len(part), dim), dim=-1))
    config = DistillConfig(batch_size=min(batch, rows // 4))
    llm, teacher = (EmbeddingStore.open(folder / name) for name in ("llm", "teacher"))
    return DistillBatches(ImageCaptions(folder).select("align"), llm, teacher, config, seed=0)


def adapter_of(llm_dim: int, embed_dim: int) -> Adapter:
    torch.manual_seed(0)
    return Adapter(llm_dim, embed_dim, AdapterConfig())


def from_store(
    source: DistillBatches, llm_dim: int, embed_dim: int, device: str = "cpu", optim: OptimConfig | None = None
) -> Steps:
    """Our stage 1, epoch after epoch."""
    loss = DistillLossConfig(reference_batch=128)
    config = DistillConfig(batch_size=source.batch_size, loss=loss, optim=optim or OptimConfig())
    stage = TextDistillation(adapter_of(llm_dim, embed_dim), config).to(device)
    return Steps(stage, config.optim, chain.from_iterable(source.epoch(epoch) for epoch in count()))


class EncodingLoop:
    """Stage 1 as it is usually written: the teacher reads the batch's texts on every step."""

    def __init__(self, clip: CLIPModel, llm_dim: int, batch: int) -> None:
        self.tower, self.projection = clip.text_model.eval(), clip.text_projection
        vocabulary, length = self.tower.config.vocab_size, max(TOKENS)
        self.ids = torch.randint(0, vocabulary - 2, (batch, length))
        self.llm = F.normalize(torch.randn(batch, llm_dim), dim=-1)
        self.adapter = adapter_of(llm_dim, self.projection.out_features)
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6)

    @torch.no_grad()
    def teacher(self, tokens: int) -> Tensor:
        """The text features of the batch, read from so many tokens each."""
        ids = self.ids[:, :tokens].clone()
        ids[:, -1] = self.tower.config.eos_token_id
        parts = torch.split(ids, CHUNK)
        return torch.cat([self.projection(self.tower(input_ids=part).pooler_output) for part in parts])

    def step(self, tokens: int) -> None:
        """One step of training."""
        target = F.normalize(self.teacher(tokens), dim=-1)
        student = F.normalize(self.adapter(self.llm), dim=-1)
        loss = (student - target).square().sum() + (F.pdist(student) - F.pdist(target)).square().sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def bare_products(
    adapter: nn.Module, batch: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """The products of matrices of one step: of each layer its output, its weights' gradient and its input's."""
    shapes = [(layer.in_features, layer.out_features) for layer in adapter.modules() if isinstance(layer, nn.Linear)]
    random = partial(torch.randn, device=device, dtype=dtype)
    tensors = [(random(batch, inputs), random(outputs, inputs), random(batch, outputs)) for inputs, outputs in shapes]

    def step() -> None:
        for x, weight, gradient in tensors:
            x @ weight.T
            gradient.T @ x
            gradient @ weight

    return step


def at_width(folder: Path, llm_dim: int, clip: CLIPModel, rows: int, steps: int, repeats: int, loop: bool) -> Turns:
    """Time `steps` of ours and of the bare products, and one step of the loop, in turn."""
    embed_dim = clip.text_projection.out_features
    folder.mkdir()
    source = stores(folder, rows, llm_dim, embed_dim)
    own, bare = from_store(source, llm_dim, embed_dim), bare_products(adapter_of(llm_dim, embed_dim), source.batch_size)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: own.run(steps),
        "products": lambda: [bare() for _ in range(steps)],
    }
    if loop:
        slow = EncodingLoop(clip, llm_dim, source.batch_size)
        ways |= {f"loop, {tokens} tokens": partial(slow.step, tokens) for tokens in TOKENS}
    return in_turn(ways, repeats)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=3)
    name, widths, rows = "ViT-B/32", {576: (10, False), 1024: (10, True), 4096: (1, False)}, 16384
    if options.small:
        name, widths, rows = "tiny", {32: (2, True)}, 64
    clip, figures, details = random_clip(name), [], {}
    batch = min(1024, rows // 4)
    with tempfile.TemporaryDirectory() as folder:
        for width, (steps, loop) in widths.items():
            turns = at_width(Path(folder) / str(width), width, clip, rows, steps, options.repeats, loop)
            for tokens in TOKENS if loop else ():
                ratios = [steps * ratio for ratio in turns.ratio(f"loop, {tokens} tokens", "ours")]
                aim = "at least 50" if tokens == 77 else ""
                figures.append(
                    figure(f"LLM width {width:,}: over the loop, {tokens} tokens a text", ratios, "x", aim=aim)
                )
            shares = turns.ratio("products", "ours")
            limit = sorted(turns.rate("products", batch * steps))[options.repeats // 2]
            share = sorted(shares)[options.repeats // 2]
            rates = turns.rate("ours", batch * steps)
            words = "pairs/s of the adapter's products of matrices alone"
            figures.append(figure(f"LLM width {width:,}: ours", rates, "pairs/s", limit=(words, limit, share)))
            details[str(width)] = {"steps_a_turn": steps, **turns.values()}
    about = {"text_tower": name, "batch": batch, "rows_of_the_store": rows, "turns": details}
    write(options, __doc__, figures, about)


if __name__ == "__main__":
    main()
