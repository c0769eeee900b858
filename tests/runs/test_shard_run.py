"""A run from tar shards: joined captions, rows that lack one, a mixture, a broken picture, a restart."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from proclip.cli import main

RECIPE = """
name = "shards"
clip = "{clip}"
[embedder]
model = "{llm}"
dtype = "float32"
layer = 1
[adapter]
num_blocks = 1
[data]
dataset = [{{path = "{shards}", weight = 1.5}}, {{path = "{world}"}}]
store = "{store}"
incomplete = "leave_out"
max_broken_share = 0.2
[distill]
split = "train"
captions = ["short"]
epochs = 1
batch_size = 4
[tune]
split = "not test"
captions = {{short = 0.75, caption = 0.25}}
epochs = 2
batch_size = 4
[log]
every_steps = 1
"""


def shard(path: Path, numbers: range, broken: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for n in numbers:
            file = io.BytesIO()
            Image.new("RGB", (30, 24), (20 * n, 255 - 20 * n, 90)).save(file, "JPEG")
            picture = file.getvalue()[: 100 if n == broken else None]
            about = json.dumps({"url": f"https://x/{n}.jpg"}).encode()
            for ending, content in (("jpg", picture), ("json", about), ("txt", f"caption {n}".encode())):
                header = tarfile.TarInfo(f"{n:04d}.{ending}")
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))


def test_from_shards_to_a_model(
    tmp_path: Path, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, table, recipe, run = (tmp_path / name for name in ("shards", "t.csv", "shards.toml", "run"))
    shard(shards / "0.tar", range(6), broken=3)
    shard(shards / "1.tar", range(6, 12), broken=-1)
    table.write_text("url,text\n" + "".join(f"https://x/{n}.jpg,a short one of {n}\n" for n in range(11, 0, -1)))
    assert main(["data", "index", str(shards), "--workers", "1"]) == 0
    assert main(["data", "join", str(shards), str(table), "--on", "url", "--columns", "short=text"]) == 0
    recipe.write_text(
        RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, shards=shards, world=tiny_world, store=tmp_path / "store")
    )
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    said = capsys.readouterr().err
    assert "'0/0003' is broken, '" in said and "broken images, in whose place others were taken: " in said
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tuned = {row["step"] for row in rows if row["stage"] == "tune"}
    assert tuned == set(range(1, 9))  # 11 shard samples have both columns, the folder's rows lack one: 16 draws of 1.5
    assert max(row.get("broken_images", 0) for row in rows) >= 1
    listed = [json.loads(line) for line in (run / "broken_images.jsonl").read_text().splitlines()]
    assert [line["key"] for line in listed] == ["0/0003"]
    assert main(["train", str(recipe), "--out", str(run), "--set", "data.max_broken_share=0"]) == 2
    assert main(["train", str(recipe), "--out", str(tmp_path / "strict"), "--set", "data.max_broken_share=0"]) == 2
    assert "images of this pass are broken" in capsys.readouterr().err
