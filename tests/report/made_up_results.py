"""Result files of made-up models: outcomes drawn from a seed, figures and intervals computed from them as ever."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from proclip.metrics.outcomes import Outcomes, interval
from proclip.report.columns import CLASSIFICATION, LONG_RETRIEVAL, ROBUSTNESS, SHORT_RETRIEVAL
from proclip.report.names import KINDS, LANGUAGES
from proclip.results import BenchmarkResult, Figure, ModelResults

MINI_LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
MINI_PATTERNS = ("colour", "count", "direction", "gender", "skin tone", "state")
PATTERNS = (
    "Color and Appearance", "Orientation and Direction", "Positional and Relational Context", "Presence of Specific "
    "Features", "Quantity and Count", "State and Condition", "Structural Characteristics", "Texts", "Viewpoint and "
    "Perspective",
)  # fmt: skip
ABOUT = {
    "path": "runs/x/model",
    "clip": "mini-clip",
    "embedder": "SmolLM2-135M-Instruct",
    "config_hash": "1f2e3d4c5b6a",
    "seed": 0,
}


def benchmark(
    name: str, task: str, shares: Mapping[str, float], seed: int, items: int, *, headline: tuple[str, ...] = (),
    checksum: str = "0123456789abcdef", chance: float | None = 0.01, resamples: int = 200,
) -> BenchmarkResult:  # fmt: skip
    """A benchmark of which every figure is a share of random hits; the items' difficulty is the same for all models."""
    outcomes: dict[str, Outcomes] = {}
    figures: dict[str, Figure] = {}
    for place, (key, share) in enumerate(shares.items()):
        hard = np.random.default_rng(place).random(items)
        noise = np.random.default_rng((seed, place)).random(items)
        values = (0.7 * hard + 0.3 * noise < share).astype(np.float32)
        outcomes[key] = Outcomes(values=values)
        low, high = interval(outcomes[key], resamples)
        figures[key] = Figure(value=outcomes[key].figure(), low=low, high=high, n=items, chance=chance)
    prompts = {"classes": 101, "templates": 7, "checksum": "aa"} if task in ("classification", "world") else None
    return BenchmarkResult(
        name=name, task=task, headline=headline or tuple(shares)[:2], protocol="Recall at 1; all captions are kept.",
        data={"images": items, "texts": 5 * items, "checksum": checksum, "complete": True}, prompts=prompts,
        figures=figures, seconds=3.5, images_per_second=100.0, texts_per_second=10.0, outcomes=outcomes,
    )  # fmt: skip


def mini_shares(skill: float, kept: float) -> dict[str, float]:
    """Figures of the mini world for a model that retrieves and classifies so well."""
    both = {f"{way}_r@{k}": s for way in ("i2t", "t2i") for k, s in ((1, skill), (5, min(1, 1.6 * skill)))}
    shares = {f"zero_shot/{style}/mean_per_class": kept * s for style, s in (("openmoji", 1), ("twemoji", 0.8))}
    shares |= {f"retrieval_short/{key}": 0.8 * share for key, share in both.items()}
    shares |= {f"retrieval_long/{key}": share for key, share in both.items()}
    shares |= {
        f"multilingual/{code}/t2i_r@1": skill * (0.9 if code == "en" else 0.2 + 0.04 * place)
        for place, code in enumerate(MINI_LANGUAGES)
    }
    shares["multilingual/mean/t2i_r@1"] = 0.4 * skill
    shares |= {f"pairs/{pattern}": 0.3 + 0.4 * skill for pattern in (*MINI_PATTERNS, "mean")}
    shares |= {f"hard_negatives/{kind}": 0.5 + 0.4 * skill for kind in ("add", "replace", "swap", "mean")}
    return shares | {"linear_probe/openmoji/acc1": 0.6 * kept + 0.3, "cka": kept}


def model(
    name: str, seed: int, skill: float, kept: float, *, items: int = 120, mini: bool = True, paper: bool = False,
    resamples: int = 200,
) -> ModelResults:  # fmt: skip
    """A model on the mini world, on the paper's benchmarks, or both."""
    found: list[BenchmarkResult] = []

    def add(one: str, task: str, shares: Mapping[str, float], chance: float | None = 0.01) -> None:
        found.append(benchmark(one, task, shares, seed, items, chance=chance, resamples=resamples))

    if mini:
        add("mini-world", "world", mini_shares(skill, kept))
    if paper:
        for place, one in enumerate((*CLASSIFICATION, *ROBUSTNESS)):
            share = kept * (0.5 + 0.03 * place)
            add(one, "classification", {"acc1": share, "acc5": min(1, share + 0.2), "mean_per_class": share})
            if one in CLASSIFICATION:
                add(f"probe-{one}", "probe", {"acc1": 0.5 + 0.4 * kept, "mean_per_class": 0.5 + 0.4 * kept})
        for place, one in enumerate((*SHORT_RETRIEVAL, *LONG_RETRIEVAL)):
            add(one, "retrieval", {"i2t_r@1": skill, "t2i_r@1": skill * (0.7 + 0.04 * place)})
        ways = {f"{c}/{way}_r@1": skill * (0.3 + 0.015 * i) for i, c in enumerate(LANGUAGES) for way in ("i2t", "t2i")}
        add("xm3600", "multilingual", ways | {f"mean/{way}_r@1": 0.5 * skill for way in ("i2t", "t2i")})
        patterns = {p: 0.1 + 0.5 * skill * (1 + (i % 3) / 3) for i, p in enumerate(PATTERNS)}
        add("mmvp_vlm", "pairs", patterns | {"mean": 0.1 + 0.5 * skill}, 0.25)
        add("sugarcrepe", "hard_negatives", dict.fromkeys((*reversed(KINDS), "mean"), 0.5 + 0.4 * skill), 0.5)
    return ModelResults(
        name=name, model={**ABOUT, "identity": {"image": {"sha256": "ab" * 32}}, "path": f"runs/{name}"},
        environment={"versions": {"proclip": "0.1.0", "torch": "2.13.0"}, "commit": "abc1234", "command":
                     f"proclip eval runs/{name}", "machine": "x86_64, 2 cores"},
        benchmarks={one.name: one for one in found},
    )  # fmt: skip


SKILLS = {
    "CLIP": (0.15, 0.8), "LLM2CLIP": (0.5, 0.45), "LiT": (0.4, 0.6), "Stage 1 only": (0.22, 0.62),
    "Stage 1 + contrastive": (0.56, 0.55), "ProCLIP": (0.57, 0.65), "ProCLIP multilingual": (0.6, 0.64),
}  # fmt: skip
