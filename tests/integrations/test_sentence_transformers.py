"""A saved folder in sentence-transformers: the same vectors as ours, mixtures, refusals, saving again."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search

from proclip.errors import ProclipError
from proclip.integrations.sentence_transformers import ProCLIPModule, load_sentence_transformer
from proclip.models import devices
from proclip.models.proclip import ProCLIP

TEXTS = ["a red bar", "ein grünes Quadrat auf weißem Grund, von oben gesehen", "x", "two"]


@pytest.fixture(scope="module")
def pictures(tiny_world: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((tiny_world / "images").glob("*.png"))[:5]]


@pytest.fixture(scope="module")
def ours(tiny_proclip_path: Path) -> ProCLIP:
    return ProCLIP.from_pretrained(tiny_proclip_path)


@pytest.fixture(scope="module")
def theirs(tiny_proclip_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_proclip_path), trust_remote_code=True, device="cpu", local_files_only=True)


def close(theirs: Any, ours: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(theirs), ours, atol=1e-6, rtol=0)


def test_texts_and_pictures_are_ours(
    theirs: SentenceTransformer, ours: ProCLIP, pictures: list[Image.Image], tiny_world: Path
) -> None:
    texts, images = ours.encode_text(TEXTS), ours.encode_image(pictures)
    close(theirs.encode(TEXTS, batch_size=2), texts)
    close(theirs.encode(pictures, batch_size=2), images)
    close(theirs.encode(TEXTS[0]), texts[0])
    close(theirs.encode(pictures[0]), images[0])
    close(theirs.encode_query(TEXTS), texts)
    close(theirs.encode_document(pictures, convert_to_tensor=True), images)
    close(theirs.encode(str(sorted((tiny_world / "images").glob("*.png"))[0])), images[0])  # a path is a picture
    close(theirs.encode([np.asarray(pictures[0]), np.asarray(pictures[1])]), images[:2])
    close(theirs.similarity(images, texts), ours.similarity(images, texts))
    assert theirs.similarity_fn_name == "cosine"
    assert theirs.get_embedding_dimension() == 16
    assert theirs.encode([]).shape == (0,)
    assert float(np.linalg.norm(theirs.encode("a long text " * 9))) == pytest.approx(1, abs=1e-6)


def test_mixtures_and_dicts(theirs: SentenceTransformer, ours: ProCLIP, pictures: list[Image.Image]) -> None:
    text, image = ours.encode_text(TEXTS), ours.encode_image(pictures)
    mixed: list[Any] = [TEXTS[0], pictures[0], {"text": TEXTS[1]}, {"image": pictures[1]}, TEXTS[2], pictures[2]]
    wanted = torch.stack([text[0], image[0], text[1], image[1], text[2], image[2]])
    for batch_size in (1, 2, 32):
        close(theirs.encode(mixed, batch_size=batch_size), wanted)
    both = theirs.encode([{"text": TEXTS[3], "image": pictures[3]}, {"image": pictures[4], "text": TEXTS[0]}])
    summed = torch.stack([text[3] + image[3], text[0] + image[4]])
    close(both, summed / summed.norm(dim=-1, keepdim=True))
    content = [{"type": "image", "image": pictures[3]}, {"type": "text", "text": TEXTS[3]}]
    close(theirs.encode([[{"role": "user", "content": content}]])[0], torch.as_tensor(both[0]))
    assert theirs.supports("image") and theirs.supports("text") and theirs.supports(("image", "text"))
    assert not theirs.supports("audio")


def test_what_is_built_on_it(theirs: SentenceTransformer, ours: ProCLIP, pictures: list[Image.Image]) -> None:
    texts, images = theirs.encode(TEXTS, convert_to_tensor=True), theirs.encode(pictures, convert_to_tensor=True)
    found = semantic_search(texts, images, top_k=1)
    best = (ours.encode_text(TEXTS) @ ours.encode_image(pictures).T).argmax(dim=1)
    assert [hits[0]["corpus_id"] for hits in found] == best.tolist()
    assert theirs.encode(TEXTS, precision="int8").dtype == np.int8
    assert theirs.encode(TEXTS, truncate_dim=4).shape == (4, 4)
    assert theirs.max_seq_length == 512
    assert theirs.tokenizer("a red bar")["input_ids"]
    assert "embed_dim" in repr(theirs)


def test_prompts_come_before_the_text_only(theirs: SentenceTransformer, ours: ProCLIP, pictures: Any) -> None:
    close(theirs.encode(["bar", pictures[0]], prompt="a red ")[0], ours.encode_text("a red bar"))
    close(theirs.encode([pictures[0]], prompt="a red ")[0], ours.encode_image([pictures[0]])[0])


def test_refusals(theirs: SentenceTransformer, tiny_proclip_path: Path, pictures: list[Image.Image]) -> None:
    for bad, message in (
        ([""], "text 0 of 1 is empty"),
        (["https://example.org/a.png"], "which is not fetched"),
        ([{"text": "a", "image": [pictures[0], pictures[1]]}], "one image an input, not 2"),
        ([("a", "b")], "one text an input, not 2"),
        ([[{"role": "user", "content": [{"type": "video", "video": "a"}]}]], "content is texts and images"),
        ([np.zeros((4, 4, 3))], "uint8, not"),
        ([{"text": 3}], "'text' must be a string"),
    ):
        with pytest.raises(ProclipError, match=message):
            theirs.encode(bad)
    with pytest.raises(ProclipError, match="no option processing_kwargs"):
        theirs.encode(["a"], processing_kwargs={"text": {"max_length": 3}})
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tiny_proclip_path), device="cpu", local_files_only=True)
    with pytest.raises(ProclipError, match="backend 'onnx'"):
        ProCLIPModule.load(str(tiny_proclip_path), backend="onnx")
    with pytest.raises(ProclipError, match="model_kwargs"):
        ProCLIPModule.load(str(tiny_proclip_path), model_kwargs={"dtype": "float16"})


def test_from_the_hubs_cache(hub_cache: Path, ours: ProCLIP, tmp_path: Path) -> None:
    model = SentenceTransformer(
        "me/mine", trust_remote_code=True, device="cpu", cache_folder=str(hub_cache), local_files_only=True
    )
    close(model.encode(TEXTS), ours.encode_text(TEXTS))
    (snapshot,) = hub_cache.glob("models--me--mine/snapshots/*")
    model.save(str(tmp_path / "again"))
    for loaded in (snapshot, tmp_path / "again"):
        assert str(hub_cache) not in (loaded / "config.json").read_text()
    origin = json.loads((tmp_path / "again" / "config.json").read_text())["loaded_from"]
    assert origin == f"me/mine@{snapshot.name}" == load_sentence_transformer(snapshot)[0].model.loaded_from


def test_the_device_is_that_of_proclip_load(
    tiny_proclip_path: Path, ours: ProCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked: list[str] = []
    monkeypatch.setattr(devices, "pick_device", lambda: picked.append("cpu") or "cpu")
    assert load_sentence_transformer(tiny_proclip_path, device="cpu").device.type == "cpu"
    assert load_sentence_transformer(ours).device.type == "cpu"  # where it is
    load_sentence_transformer(tiny_proclip_path)
    assert picked == ["cpu"]
    with pytest.raises(ProclipError, match="device 'gpu' is not to be had here"):
        load_sentence_transformer(tiny_proclip_path, device="gpu")


def test_saving_again(tiny_proclip_path: Path, ours: ProCLIP, pictures: list[Image.Image], tmp_path: Path) -> None:
    model = load_sentence_transformer(tiny_proclip_path, device="cpu")
    model.prompts["query"] = "a red "
    model.max_seq_length = 7
    with pytest.raises(ProclipError, match="safetensors only"):
        model.save(str(tmp_path / "bin"), safe_serialization=False)
    model.save(str(tmp_path / "again"))
    modules = json.loads((tmp_path / "again" / "modules.json").read_text())
    assert modules == json.loads((tiny_proclip_path / "modules.json").read_text())
    again = load_sentence_transformer(tmp_path / "again")
    assert again.prompts["query"] == "a red " and again.max_seq_length == 7
    close(again.encode_query(["bar"]), ours.encode_text(["a red bar"]))
    close(again.encode(pictures), ours.encode_image(pictures))
    long = "red " * 30
    assert not np.allclose(again.encode(long), ours.encode_text(long), atol=1e-4)
    assert torch.equal(ProCLIP.from_pretrained(tmp_path / "again").encode_image(pictures), ours.encode_image(pictures))
    assert "proclip" in (tmp_path / "again" / "README.md").read_text()


def test_a_copy_for_another_process_leaves_the_llm_behind(theirs: SentenceTransformer, ours: ProCLIP) -> None:
    theirs.encode(TEXTS)
    copy = pickle.loads(pickle.dumps(theirs))  # its own bytes, as a pool of processes passes them
    assert copy[0].model._embedder is None
    close(copy.encode(TEXTS), ours.encode_text(TEXTS))
