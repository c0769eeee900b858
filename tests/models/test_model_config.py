"""A model folder with one field edited: refused in one line that names the file and the field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from proclip.errors import ProclipError
from proclip.models.proclip import ProCLIP


def edited(source: Path, folder: Path, file: str, changes: dict[str, Any]) -> Path:
    """A copy in which fields, with dots between tables, have other values."""
    shutil.copytree(source, folder)
    values = json.loads((folder / file).read_text())
    for field, value in changes.items():
        *tables, name = field.split(".")
        table = values
        for key in tables:
            table = table[key]
        table[name] = value
    (folder / file).write_text(json.dumps(values))
    return folder


TOWER = r"image_tower\.config: no tower can be built: .*"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embed_dim", "256", "embed_dim must be of type int, not '256'"),
        ("embed_dim", -1, "embed_dim must be above 0, not -1"),
        ("llm_dim", None, "llm_dim must be of type int, not None"),
        ("adapter", [], r"adapter must be a table, not \[\]"),
        ("adapter.x", 1, r"unknown key 'adapter\.x'"),
        ("image_tower", "x", "image_tower must be a table, not 'x'"),
        ("image_tower", {}, r"missing key 'image_tower\.family'"),
        ("image_tower.family", [1], r"image_tower\.family must be of type str, not \[1\]"),
        ("image_tower.family", "vit", "image tower of family 'vit': this version knows clip"),
        ("image_tower.config", None, r"image_tower\.config must be a table, not None"),
        ("image_tower.config.num_attention_heads", 7, TOWER),
        ("image_tower.config.hidden_size", "a", TOWER + "hidden_size"),
        ("embedder", None, "embedder must be a table, not None"),
        ("embedder.pooling", "first", r"embedder\.pooling must be one of"),
        ("embedder_identity", "zz", "embedder_identity must be a table, not 'zz'"),
        ("clip", 5, "clip must be of type str, not 5"),
        ("provenance", "x", "provenance must be a table, not 'x'"),
    ],
)
def test_fields_of_the_config(tiny_proclip_path: Path, tmp_path: Path, field: str, value: Any, message: str) -> None:
    folder = edited(tiny_proclip_path, tmp_path / "model", "config.json", {field: value})
    with pytest.raises(ProclipError, match=rf"^{folder}/config\.json: {message}"):
        ProCLIP.from_pretrained(folder)


def test_keys_of_other_libraries_are_passed_over(tiny_proclip_path: Path, tmp_path: Path) -> None:
    added = {"transformers_version": "5.0.0", "dtype": "float32"}
    assert ProCLIP.from_pretrained(edited(tiny_proclip_path, tmp_path / "model", "config.json", added)).clip_name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": ["a", 0, 0]}, r"no usable image_mean: \['a', 0, 0\]; three numbers are wanted"),
        ({"image_mean": [float("nan"), 0, 0]}, "no usable image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std is \[0\.5, 0, 0\.5\]: .* must be above 0"),
        ({"resample": 99}, "resample is 99, Pillow's filters are 0 nearest, .*3 bicubic"),
        ({"resample": "x"}, "resample is 'x'"),
        ({"rescale_factor": "a"}, "rescale_factor is 'a', 1/255 is supported"),
        ({"crop_offset": "x"}, "crop_offset is 'x', 'floor' or 'round' is wanted"),
    ],
)
def test_fields_of_the_preprocessing(
    tiny_proclip_path: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = edited(tiny_proclip_path, tmp_path / "model", "preprocessor_config.json", changes)
    with pytest.raises(ProclipError, match=rf"^{folder}/preprocessor_config\.json: {message}"):
        ProCLIP.from_pretrained(folder)


def test_pictures_of_another_size_than_the_towers(tiny_proclip_path: Path, tmp_path: Path) -> None:
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    folder = edited(tiny_proclip_path, tmp_path / "model", "preprocessor_config.json", size)
    with pytest.raises(ProclipError, match=r"image size is 64 in the preprocessing, 16 in config\.json"):
        ProCLIP.from_pretrained(folder)
