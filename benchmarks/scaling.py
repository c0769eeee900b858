"""The tables of docs/scaling.md: disk, memory, time and traffic from formulas, with what they assume.

    python benchmarks/scaling.py

Nothing here is timed. Rates that a table needs are the maker's rate of a product of matrices, of which a share was
measured; both stand in the page. Letters: b pairs on each GPU, w GPUs, n = w b, d width of the shared space, h of the
LLM, P trained numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proclip.files import write_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PEAK = 989e12
"""bfloat16 operations a second of an H100 SXM, and of an H200, as their maker says."""
EMBED, STAGE1, STAGE2 = 0.14, 0.25, 0.32
"""Shares of it that were measured (benchmarks/results/gpu.json, gpu_stage2.json): an LLM of 0.6B; stage 1 from stores,
h = 4,096 and b = 8,192; stage 2 of ViT-L/14 with its EMA teacher, not compiled."""
LINKS = {"NVLink, 450 GB/s": 450e9, "InfiniBand, 50 GB/s a GPU": 50e9, "Ethernet, 12.5 GB/s a node of 8": 12.5e9 / 8}
"""What a GPU sends in a second at most."""
SETS = {"CC3M": 3_000_000, "15M": 15_000_000, "30M": 30_000_000}
PICTURE_BYTES, LLM_DIM, TOKENS = 35_000, 4096, {"short": 20, "raw": 15, "long": 80}
COLUMNS = ("raw", "short", "long")
LLM_NUMBERS = 7.0e9
"""Of Llama 3 8B's blocks: what a token passes through."""
EPOCHS = {"stage 1": 4, "stage 2": 4}


@dataclass(frozen=True)
class Tower:
    """A vision transformer of CLIP."""

    side: int
    patch: int
    width: int
    blocks: int
    embed_dim: int

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.side // self.patch) ** 2 + 1

    @property
    def numbers(self) -> int:
        """Its parameters."""
        block = 12 * self.width**2 + 13 * self.width
        ends = 3 * self.patch**2 * self.width + (self.tokens + 5) * self.width + self.width * self.embed_dim
        return self.blocks * block + ends

    @property
    def operations(self) -> float:
        """Of one forward pass of a picture, in products of matrices: two for each number and token, and attention."""
        of_blocks = self.blocks * (24 * self.tokens * self.width**2 + 4 * self.tokens**2 * self.width)
        ends = 6 * self.patch**2 * self.width * (self.tokens - 1) + 2 * self.width * self.embed_dim
        return float(of_blocks + ends)


TOWERS = {"ViT-B/32": Tower(224, 32, 768, 12, 512), "ViT-B/16": Tower(224, 16, 768, 12, 512),
          "ViT-L/14": Tower(224, 14, 1024, 24, 768)}  # fmt: skip
PAPER = TOWERS["ViT-L/14"]


def adapter_numbers(llm_dim: int, embed_dim: int, blocks: int = 4, expansion: int = 2) -> int:
    """Parameters of the adapter."""
    block = 2 * expansion * llm_dim**2 + (expansion + 3) * llm_dim
    return blocks * block + 2 * llm_dim + llm_dim * embed_dim + embed_dim


def trained(tower: Tower, llm_dim: int) -> int:
    """P of stage 2: tower, adapter, temperature."""
    return tower.numbers + adapter_numbers(llm_dim, tower.embed_dim) + 1


def gathered_bytes(pairs: int, dim: int, world: int) -> float:
    """What a GPU receives for the losses in a step of stage 2.

    Forward, from each other GPU: b image, text and teacher embeds of d float32, and two ids. Backward, reduce-scatter:
    the others' parts of the gradients of image and text embeds.
    """
    return float((world - 1) * pairs * (3 * 4 * dim + 16 + 2 * 4 * dim))


def reduced_bytes(numbers: int, world: int) -> float:
    """What a GPU sends, and receives, for a ring all-reduce of float32 gradients."""
    return 2 * (world - 1) / world * 4 * numbers


def step_seconds(tower: Tower, llm_dim: int, pairs: int, teacher: bool = True) -> float:
    """Computing time of a step of stage 2 at its share of `PEAK`: three forward passes, a fourth for the teacher."""
    per_pair = (4 if teacher else 3) * tower.operations + 6 * adapter_numbers(llm_dim, tower.embed_dim)
    return pairs * per_pair / (STAGE2 * PEAK)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def size(count: float) -> str:
    """Bytes in words."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= 0.9995 * scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def seconds(value: float) -> str:
    """A time in words."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.2g} s" if value < 120 else f"{value / 3600:.2g} h"


def hours(value: float) -> str:
    """Seconds in hours."""
    return f"{value / 3600:.0f}" if value >= 36_000 else f"{value / 3600:.2g}"


def disk() -> str:
    """Disk by data set."""
    rows = []
    for name, count in SETS.items():
        llm = len(COLUMNS) * count * LLM_DIM
        teacher = 2 * count * PAPER.embed_dim * 4
        rows.append([name, size(count * PICTURE_BYTES), size(2 * llm), size(llm), size(teacher)])
    return table(["", "pictures", "llm store, float16", "llm store, int8", "teacher store"], rows)


def memory() -> str:
    """Memory of a GPU by tower, without activations."""
    rows = []
    for name, tower in TOWERS.items():
        for llm_dim in (1024, 4096):
            numbers, ema = trained(tower, llm_dim), tower.numbers
            state = 16 * numbers + 4 * ema
            row = [f"{name}, h = {llm_dim:,}", f"{tower.numbers / 1e6:.0f} M", f"{(numbers - ema) / 1e6:.0f} M",
                   size(16 * numbers), size(4 * ema), size(state), size(state / 8)]  # fmt: skip
            rows.append(row)
    head = ["", "tower", "adapter", "16 P", "EMA teacher", "DDP, each GPU", "FSDP2 on 8, each GPU"]
    return table(head, rows)


def time() -> str:
    """GPU hours by data set for the paper's ViT-L/14 and an LLM of 8B."""
    rows = []
    adapter = adapter_numbers(LLM_DIM, PAPER.embed_dim)
    for name, count in SETS.items():
        tokens = count * sum(TOKENS[column] for column in COLUMNS)
        embed = tokens * 2 * LLM_NUMBERS / (EMBED * PEAK)
        stage1 = EPOCHS["stage 1"] * 2 * count * 6 * adapter / (STAGE1 * PEAK)
        stage2 = EPOCHS["stage 2"] * step_seconds(PAPER, LLM_DIM, count)
        rows.append([name, f"{tokens / 1e9:.2g} G", *(hours(value) for value in (embed, stage1, stage2))])
    return table(["", "tokens", "embed, GPU hours", "stage 1, GPU hours", "stage 2, GPU hours"], rows)


def traffic() -> str:
    """Traffic and time of a step of stage 2 by GPUs, global batch held at 4,096 and batch held at 512 a GPU."""
    numbers, rows = trained(PAPER, LLM_DIM), []
    worlds = (8, 16, 32, 64, 128, 256)
    for places in ([(w, 4096 // w) for w in worlds], [(w, 512) for w in worlds[1:]]):
        for world, pairs in places:
            gathered, reduced = gathered_bytes(pairs, PAPER.embed_dim, world), reduced_bytes(numbers, world)
            on_links = [seconds((gathered + reduced) / rate) for rate in LINKS.values()]
            computing = seconds(step_seconds(PAPER, LLM_DIM, pairs))
            logits = size(4.0 * pairs * pairs * world)
            rows.append([f"{world}", f"{pairs}", f"{world * pairs:,}", size(gathered), size(reduced), logits, computing,
                         *on_links])  # fmt: skip
    head = ["GPUs", "b", "n", "embeds", "gradients", "b x n logits", "computing"]
    return table([*head, *LINKS], rows)


TABLES: dict[str, Callable[[], str]] = {"disk": disk, "memory": memory, "time": time, "traffic": traffic}


def filled(page: str) -> str:
    """The page with its tables."""
    return PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def main() -> None:
    """Write the page anew."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
