"""mteb runs image tasks on our models: tasks made here from local pictures, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from proclip.errors import ProclipError
from proclip.models.proclip import ProCLIP

mteb = pytest.importorskip("mteb", reason="mteb is not installed (extra eval)")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of mteb and datasets

COMMON = {
    "description": "tiny pictures", "reference": "https://example.org/",
    "dataset": {"path": "none", "revision": "none"},
    "category": "i2t", "modalities": ["image", "text"], "eval_splits": ["test"], "eval_langs": ["eng-Latn"],
    "date": ("2025-01-01", "2025-01-01"), "domains": [], "task_subtypes": [], "license": "cc-by-4.0",
    "annotations_creators": "derived", "dialect": [], "sample_creation": "created", "bibtex_citation": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tiny_world: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((tiny_world / "images").glob("*.png"))]


def run(model: Any, task: Any, tmp_path: Path) -> dict[str, float]:
    result = mteb.evaluate(model, task, cache=None, overwrite_strategy="always", encode_kwargs={"batch_size": 5})
    scores: dict[str, float] = result.task_results[0].scores["test"][0]
    return scores


def test_zero_shot_is_ours(tiny_proclip_path: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    from proclip.integrations.mteb import load_mteb_model

    names = ["a red thing", "a green thing", "a blue thing", "a grey thing"]
    labels = [i % 4 for i in range(len(pictures))]

    class Tiny(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(name="Tiny", type="ZeroShotClassification", main_score="accuracy", **COMMON)

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            self.dataset = DatasetDict({"test": Dataset.from_dict({"image": pictures, "label": labels})})
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return names

    scores = run(load_mteb_model(tiny_proclip_path, device="cpu"), Tiny(), tmp_path)
    ours = ProCLIP.from_pretrained(tiny_proclip_path)
    guessed = (ours.encode_image(pictures) @ ours.encode_text(names).T).argmax(dim=1)
    assert scores["accuracy"] == pytest.approx(float((guessed == torch.tensor(labels)).float().mean()))


def test_retrieval_is_ours(tiny_proclip_path: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    from proclip.integrations.mteb import load_mteb_model

    captions = [f"picture {i} of twelve" for i in range(len(pictures))]

    class TinyRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(name="TinyRetrieval", type="Any2AnyRetrieval", main_score="ndcg_at_10", **COMMON)

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            ids = range(len(pictures))
            split = RetrievalSplitData(
                queries=Dataset.from_dict({"id": [f"q{i}" for i in ids], "image": pictures}),
                corpus=Dataset.from_dict({"id": [f"d{i}" for i in ids], "text": captions}),
                relevant_docs={f"q{i}": {f"d{i}": 1} for i in ids},
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    ours = ProCLIP.from_pretrained(tiny_proclip_path)
    scores = run(load_mteb_model(ours), TinyRetrieval(), tmp_path)
    hits = (ours.encode_image(pictures) @ ours.encode_text(captions).T).argmax(dim=1) == torch.arange(len(pictures))
    assert scores["recall_at_1"] == pytest.approx(float(hits.float().mean()), abs=1e-4)


def test_rows(tiny_proclip_path: Path, pictures: list[Image.Image]) -> None:
    from proclip.integrations.mteb import ProCLIPEncoder

    encoder = ProCLIPEncoder(tiny_proclip_path)
    options: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    batches: Any = [{"text": ["a", ""], "image": [None, pictures[0]]}, {"text": ["b"], "image": [pictures[1]]}]
    embeds = torch.as_tensor(encoder.encode(batches, **options))
    text, image = encoder.model[0].model.encode_text(["a", "b"]), encoder.model[0].model.encode_image(pictures[:2])
    both = torch.nn.functional.normalize(text[1] + image[1], dim=0)
    torch.testing.assert_close(embeds, torch.stack([text[0], image[0], both]), atol=1e-6, rtol=0)
    with pytest.raises(ProclipError, match="no text"):
        encoder.encode([{"text": [""]}], **options)  # type: ignore[arg-type, list-item]
