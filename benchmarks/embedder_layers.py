"""Which hidden layer of SmolLM2, and is its first token to be pooled? Chosen on development concepts.

    python benchmarks/embedder_layers.py --data runs/mini --out benchmarks/results/embedder_layers.json

For every candidate: stage 1 on the align captions (recipe mini/stage1, `--seeds` seeds), then retrieval of the
development concepts' pictures by the teacher's image tower. One pass of the LLM gives every layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import command

from proclip.config import AdapterConfig, DistillLossConfig
from proclip.data.dataset import ImageCaptions
from proclip.losses import distillation_loss
from proclip.metrics import ranks_of_first_positive
from proclip.models.adapter import Adapter
from proclip.models.causal_lm import load_causal_lm
from proclip.models.clip import Clip, load_clip
from proclip.models.embedder_source import locate
from proclip.runs.recipes import environment, find_recipe
from proclip.seeding import generator, seed_all

LAYERS = (6, 9, 12, 15, 20, 29)
SINK = "<|endoftext|>"
BATCH_TOKENS = 1024


def batches(lengths: list[int]) -> list[list[int]]:
    """Indices of texts of like length, at most BATCH_TOKENS padded tokens a batch."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    cut: list[list[int]] = [[]]
    for index in order:
        if cut[-1] and lengths[index] * (len(cut[-1]) + 1) > BATCH_TOKENS:
            cut.append([])
        cut[-1].append(index)
    return cut


@torch.inference_mode()
def pooled(texts: list[str], sink: bool) -> dict[int, torch.Tensor]:
    """Mean over tokens of every candidate layer's states; with `sink`, a leading special token that is not pooled."""
    config = find_recipe("mini/proclip").embedder
    model, tokenizer = load_causal_lm(config, locate(config), "cpu")
    ids = tokenizer([(SINK if sink else "") + t for t in texts], truncation=True, max_length=512)["input_ids"]
    out = {layer: torch.empty(len(texts), model.config.hidden_size) for layer in LAYERS}
    for rows in batches([len(i) for i in ids]):
        longest = max(len(ids[r]) for r in rows)
        tokens = torch.tensor([ids[r] + [0] * (longest - len(ids[r])) for r in rows])
        mask = torch.tensor([[1] * len(ids[r]) + [0] * (longest - len(ids[r])) for r in rows])
        states = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        weights = (mask * (mask.cumsum(1) > int(sink))).unsqueeze(-1)
        for layer in LAYERS:
            out[layer][rows] = (states[layer].float() * weights).sum(1) / weights.sum(1)
    return out


def stage1(llm: torch.Tensor, teacher: torch.Tensor, clip: Clip, seed: int, epochs: int = 12) -> Adapter:
    """Stage 1 as the recipe does it, on matrices."""
    recipe = find_recipe("mini/stage1")
    assert recipe.distill
    optim, loss = recipe.distill.optim, DistillLossConfig(reference_batch=128)
    seed_all(seed)
    adapter = Adapter(llm.shape[1], clip.dim, AdapterConfig(input_norm="standardize"))
    adapter.fit_input_norm([llm])
    optimizer = torch.optim.AdamW(
        adapter.parameters(), lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=0.05
    )
    steps = epochs * (len(llm) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = torch.randperm(len(llm), generator=generator(seed, epoch))
        for rows in torch.split(order, 128)[: len(llm) // 128]:
            student = F.normalize(adapter(llm[rows]), dim=-1)
            optimizer.zero_grad()
            terms = distillation_loss(student, teacher[rows], reference_batch=loss.reference_batch)
            terms.loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return adapter.eval()


def main() -> None:
    """Measure every candidate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/mini"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    data, clip = ImageCaptions(arguments.data), load_clip("mini-clip")
    align = data.select("align")
    dev = [s for s in data.select("dev") if s.captions["style"] == "openmoji"]
    train_texts = [s.captions[c] for s in align for c in ("short", "raw", "name_en", "kind")]
    asked = {c: [s.captions[c] for s in dev] for c in ("short", "long", "name_en", "name_de", "name_ja")}
    texts = train_texts + [t for column in asked.values() for t in column]
    with torch.inference_mode():
        pixels = torch.stack([clip.preprocess(s.picture.open()) for s in dev])
        image_embeds = F.normalize(clip.image_tower(pixels), dim=-1)
    teacher = clip.encode(train_texts).embeds
    rows = []
    for sink in (False, True):
        start = time.perf_counter()
        vectors = pooled(texts, sink)
        print(f"sink {sink}: {time.perf_counter() - start:.0f} s", flush=True)
        for layer in LAYERS:
            figures: dict[str, list[float]] = {}
            for seed in range(arguments.seeds):
                adapter = stage1(vectors[layer][: len(train_texts)], teacher, clip, seed)
                with torch.inference_mode():
                    embeds = F.normalize(adapter(vectors[layer][len(train_texts) :]), dim=-1)
                for column, text_embeds in zip(asked, torch.split(embeds, len(dev)), strict=True):
                    ranks = ranks_of_first_positive(text_embeds, image_embeds, [[i] for i in range(len(dev))])
                    for k in (1, 5):
                        figures.setdefault(f"{column} t2i R@{k}", []).append(float((ranks <= k).double().mean()))
            rows.append(
                {"layer": layer, "sink": sink, **{k: round(statistics.fmean(v), 4) for k, v in figures.items()}}
            )
            print(rows[-1], flush=True)
    result = {
        "protocol": "stage 1 on align, dev concepts, OpenMoji",
        "seeds": arguments.seeds,
        "rows": rows,
        "environment": environment() | {"command": command()},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
