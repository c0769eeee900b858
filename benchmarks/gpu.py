"""On a GPU: training and embedding, images, pairs and tokens a second, and how much of the device's rate that is.

    python benchmarks/gpu.py                          # a quarter of an hour on one GPU of 80 GB
    python benchmarks/gpu.py --parts stage2 --clips ViT-B/16

Random weights, bfloat16; batches in the device's memory where nothing else is said. The limit is the best rate of a
product of matrices of 8,192 x 8,192 in bfloat16, measured here. Parts:

- stage2: our step with the EMA teacher and without one; and open_clip's own step of the same CLIP (its model and its
  loss, bfloat16 autocast, AdamW), of both towers and with the text tower locked, where open_clip can be imported.
  And ours through torch.compile. Memory is what a way adds to the device, from its weights to the peak of its second
  step.
- stage1: the adapter's training step from stores on disk, against that of one batch in the device's memory; and the
  latter against its products of matrices alone.
- embed: texts through an LLM of Qwen3-0.6B's shape by `TextEmbedder.encode`, from tokenizing to vectors on the host;
  and with its blocks compiled.

Of our own steps and of embedding a profile is written too: where the device's time goes, and how much of the time by
the clock it computes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import product, repeat
from pathlib import Path
from typing import Any

import torch
from limits import copying, matmul
from measure import Turns, command_line, figure, in_turn, write
from profiles import where_time_goes
from stage1 import adapter_of, bare_products, from_store, stores
from torch import nn
from training import CLIPS, LOGIT_SCALE, Steps, operations, random_tune_batch
from transformers import Qwen3Config, Qwen3Model

from proclip.config import AdapterConfig, EmbedderConfig, ImageTuningConfig, OptimConfig, TuneConfig
from proclip.errors import one_line
from proclip.models.adapter import Adapter
from proclip.models.clip_pretraining import train_tokenizer
from proclip.models.clip_transformers import ClipImageTower
from proclip.models.embedder import load_embedder
from proclip.train.loop import to_device
from proclip.train.stages import ImageTextTuning

BF16 = OptimConfig(autocast="bfloat16")
EMA, STRIDE, BARE = "EMA teacher", "EMA teacher of every 4th picture", "no teacher"
PLAIN, COMPILED = "EMA teacher, not compiled", {"image": ImageTuningConfig(compile=True)}
VARIANTS: dict[str, dict[str, Any]] = {
    EMA: {},
    STRIDE: {"teacher_stride": 4},
    BARE: {"distillation_weight": 0.0},
}
"""Of our stage 2: what differs from the defaults."""
OPEN_CLIP = {"ViT-B/16": "ViT-B-16", "ViT-L/14": "ViT-L-14"}
QWEN = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
}  # fmt: skip
SMALL_QWEN = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 600,
}  # fmt: skip
WORDS = "a red kite over the sea beside two boats"
BATCHES = {"ViT-B/16": 256, "ViT-L/14": 128}
"""Of stage 2: what every way's activations find room for, one at a time, beside all weights."""
GIB = 2**30


class Part:
    """Figures and details of one part, and what they are held against."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.repeats = options, options.repeats
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.small = options.small
        self.figures: list[dict[str, Any]] = []
        self.details: dict[str, Any] = {}
        self.profiles: dict[str, Any] = {}
        self.product, self.in_product = matmul(64 if self.small else 8192, torch.bfloat16, self.device)
        self.peak = 0.0

    def in_turn(self, ways: Mapping[str, Callable[[], object]]) -> tuple[Turns, float]:
        """Time them with the product of matrices; the latter's best rate so far, operations a second.

        The best, for one product between long steps is slower than many in a row: the GPU's clock falls.
        """
        turns = in_turn({**ways, "matmul": self.product}, self.repeats, warm_up=3)
        self.peak = max(self.peak, *turns.rate("matmul", self.in_product))
        return turns, self.peak

    def add(
        self, what: str, values: list[float], unit: str, limit: tuple[str, float] | None = None, aim: str = ""
    ) -> None:
        """Add a figure; its share of the limit is that of its median."""
        held = (*limit, statistics.median(values) / limit[1]) if limit else None
        self.figures.append(figure(what, values, unit, limit=held, aim=aim))

    def made(self, what: str, make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
        """Make a way, run it twice and add the memory of the device that it took."""
        if self.device != "cuda":
            return make()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        way = make()
        for _ in range(2):
            way()
        torch.cuda.synchronize()
        self.add(f"{what}: memory", [(torch.cuda.max_memory_allocated() - before) / GIB], "GiB")
        self.details.setdefault("seconds_to_second_step", {})[what] = time.perf_counter() - start
        return way


def our_stage2(name: str, batch: int, llm_dim: int, device: str, changes: Mapping[str, Any]) -> Callable[[], object]:
    """A step of our stage 2 of a CLIP with random weights."""
    torch.manual_seed(0)
    sizes = CLIPS[name]
    tower = ClipImageTower.from_config(sizes["vision_config"], sizes["projection_dim"])
    adapter = Adapter(llm_dim, tower.embed_dim, AdapterConfig())
    config = TuneConfig(**{"batch_size": batch, "optim": BF16, **changes})
    stage = ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(LOGIT_SCALE)), config).to(device)
    side = sizes["vision_config"].get("image_size", 224)
    return Steps(stage, config.optim, [random_tune_batch(batch, side, llm_dim, device)]).run


def imports_open_clip(part: Part) -> bool:
    """Whether it is there; why not, into the details."""
    try:
        import_module("open_clip")
    except (ImportError, RuntimeError, AttributeError) as error:  # the latter two from a torchvision of another build
        part.details["open_clip"] = f"not imported: {type(error).__name__}: {one_line(error)}"
        return False
    return True


def open_clip_step(name: str, batch: int, device: str, lock_text: bool) -> Callable[[], object]:
    """The training step of open_clip: both towers, its loss, bfloat16 autocast, AdamW."""
    import open_clip

    model = open_clip.create_model(OPEN_CLIP[name], device=device)
    if lock_text:
        model.lock_text_tower(unlocked_layers=0)
    loss_of = open_clip.ClipLoss(cache_labels=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)
    images = torch.randn(batch, 3, 224, 224, device=device)
    texts = torch.randint(1, 49_000, (batch, 77), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            image_features, text_features, scale = model(images, texts)[:3]
            loss = loss_of(image_features, text_features, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)

    return step


def stage2(part: Part, name: str, batch: int, llm_dim: int, compiled: bool) -> None:
    """Images a second of our step and of open_clip's, and the EMA teacher's price; or of ours compiled and not."""
    title = f"stage 2, {name}, batch {batch}" + (", compiled" if compiled else "")
    variants = {PLAIN: {}, EMA: COMPILED, BARE: {**VARIANTS[BARE], **COMPILED}} if compiled else VARIANTS
    made: dict[str, Callable[[], Callable[[], object]]] = {
        what: partial(our_stage2, name, batch, llm_dim, part.device, changes) for what, changes in variants.items()
    }
    if not compiled and name in OPEN_CLIP and imports_open_clip(part):
        for what, lock in (("open_clip", False), ("open_clip, text tower locked", True)):
            made[what] = partial(open_clip_step, name, batch, part.device, lock)
    ways = {what: part.made(f"{title}, {what}", make) for what, make in made.items()}
    if compiled:  # what is counted of compiled code is not all: theirs is as much as that of the plain towers
        bare = our_stage2(name, batch, llm_dim, part.device, VARIANTS[BARE])
        whole = operations(ways[PLAIN])
        needed = {PLAIN: whole, EMA: whole, BARE: operations(bare)}
        del bare
    else:
        needed = {what: operations(way) for what, way in ways.items()}
    turns, peak = part.in_turn(ways)
    for what in ways:
        aim = "at least 45 % of it" if name == "ViT-L/14" and what == EMA else ""
        limit = ("images/s at the rate of a product of matrices", batch * peak / needed[what])
        part.add(f"{title}, {what}", turns.rate(what, batch), "images/s", limit, aim)
    for what in (EMA,) if compiled else (EMA, STRIDE):
        price = [100 * (ratio - 1) for ratio in turns.ratio(what, BARE)]
        part.add(f"{title}: price of {what}", price, "%", aim="at most 20")
    if compiled:
        part.add(f"{title}: over not compiled", turns.ratio(PLAIN, EMA), "x")
    if "open_clip" in ways:
        part.add(f"{title}: ours over open_clip's step", turns.ratio("open_clip", EMA), "x")
    part.details[title] = {
        "batch": batch,
        "gflop": {k: v / 1e9 for k, v in needed.items()},
        "turns": turns.values(),
    }
    for what in (EMA,) if compiled else sorted({*made} - {STRIDE, BARE}):
        part.profiles[f"{title}, {what}"] = where_time_goes(ways[what])


def free() -> None:
    """Give back the device's memory of ways that are done, and forget their compiled code."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stage1(part: Part, llm_dim: int, batch: int, steps: int) -> None:
    """Pairs a second of stage 1 from stores on disk, against one batch in the device's memory and bare products."""
    dim = 768
    with tempfile.TemporaryDirectory() as folder:
        source = stores(Path(folder), max(4 * batch, min(8 * batch, 1 << 15)), llm_dim, dim, batch)
        own = from_store(source, llm_dim, dim, part.device, BF16)
        constant = from_store(source, llm_dim, dim, part.device, BF16)
        constant.batches = repeat(to_device(next(source.epoch(0)), torch.device(part.device)))
        bare = bare_products(adapter_of(llm_dim, dim), batch, part.device, torch.bfloat16)
        ways = {"ours": partial(own.run, steps), "one batch": partial(constant.run, steps)}
        turns, _ = part.in_turn({**ways, "products": lambda: [bare() for _ in range(steps)]})
    what = f"stage 1, LLM width {llm_dim:,}, batch {batch:,}"
    words = {"ours": "one batch", "one batch": "products"}
    said = {"one batch": "pairs/s of one batch in the device's memory",
            "products": "pairs/s of the products of matrices alone"}  # fmt: skip
    for way, title in (("ours", what), ("one batch", f"{what}, one batch in the device's memory")):
        limit = statistics.median(turns.rate(words[way], batch * steps))
        part.add(title, turns.rate(way, batch * steps), "pairs/s", (said[words[way]], limit))
    part.details[what] = turns.values()
    part.profiles[f"{what}, one batch in the device's memory"] = where_time_goes(constant.run)


def embed(part: Part, shape: Mapping[str, Any], texts: int) -> None:
    """Tokens a second of an LLM of Qwen3-0.6B's shape."""
    captions = [f"{WORDS[n % 3 :]} " * (1 + n % 9) + f"{n}" for n in range(texts)]
    with tempfile.TemporaryDirectory() as name:
        folder, tokenizer = Path(name), train_tokenizer(captions[:200], 600)
        torch.manual_seed(0)
        Qwen3Model(Qwen3Config(**shape)).bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = EmbedderConfig(model=str(folder), pooling="last_token", dtype="bfloat16")
        plain, compiled = (load_embedder(replace(config, compile=on), part.device) for on in (False, True))
        tokens = sum(len(ids) for ids in tokenizer(captions)["input_ids"])
        start = time.perf_counter()
        compiled.encode(captions[:256])
        seconds = time.perf_counter() - start
        ways = {"plain": lambda: plain.encode(captions), "compiled": lambda: compiled.encode(captions)}
        turns, peak = part.in_turn(ways)
    inner, keys = shape["num_attention_heads"], shape["num_key_value_heads"]
    width, head = shape["hidden_size"], shape["head_dim"]
    weights = width * head * (2 * inner + 2 * keys) + 3 * width * shape["intermediate_size"]
    limit = ("tokens/s at the rate of a product of matrices", peak / (2 * weights * shape["num_hidden_layers"]))
    for way, embedder in (("plain", plain), ("compiled", compiled)):
        title = "embed, LLM of Qwen3-0.6B's shape" + (", compiled" if way == "compiled" else "")
        part.add(title, turns.rate(way, tokens), "tokens/s", limit)
        part.profiles[title] = where_time_goes(partial(embedder.encode, captions[:4096]))
    part.details["embed"] = {"texts": texts, "tokens": tokens, "seconds_to_compile": seconds, "turns": turns.values()}


def extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts", nargs="+", choices=("stage2", "stage1", "embed"), default=("stage2", "stage1", "embed")
    )
    parser.add_argument("--clips", nargs="+", choices=list(OPEN_CLIP), default=list(OPEN_CLIP))
    parser.add_argument("--batch", type=int, help="of stage 2 (default: as its CLIP allows)")


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=10, extend=extend)
    if not torch.cuda.is_available() and not options.small:
        raise SystemExit("no GPU here: --small shows that it runs")
    part = Part(options)
    copy, moved = copying(1 if part.small else 2048, part.device)
    turns, _ = part.in_turn({"copy": copy})
    part.add("product of matrices, bfloat16", [r / 1e12 for r in turns.rate("matmul", part.in_product)], "TFLOP/s")
    part.add("copy in the device's memory", [r / 1e9 for r in turns.rate("copy", moved)], "GB/s")
    del copy
    questions: list[Callable[[], None]] = []
    if "embed" in options.parts:
        questions.append(partial(embed, part, SMALL_QWEN if part.small else QWEN, 16 if part.small else 8192))
    if "stage1" in options.parts:
        for llm_dim, batch in [(32, 8)] if part.small else [(1024, 1024), (4096, 1024), (4096, 8192)]:
            questions.append(partial(stage1, part, llm_dim, batch, 2 if part.small else 20))
    if "stage2" in options.parts:
        for compiled, name in product((False, True), ["tiny"] if part.small else options.clips):
            batch = options.batch or BATCHES.get(name, 8)
            questions.append(partial(stage2, part, name, batch, 32 if part.small else 1024, compiled))
    for question in questions:
        question()
        free()
        write(options, __doc__, part.figures, {"cores": os.cpu_count(), "profiles": part.profiles, **part.details})


if __name__ == "__main__":
    main()
