"""From a folder of captioned pictures to a model of your own: what the data look like, training, what was gained.

python examples/align_your_own_pictures.py [--data FOLDER] [--clip ID] [--embedder ID]

The same on the command line: proclip align --clip ID --embedder ID --data FOLDER
"""

# %% What to align: a CLIP, an LLM-based embedder, captioned pictures
from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

import proclip
from proclip.runs.align import align_folder

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--clip", default="mini-clip", help="such as openai/clip-vit-base-patch32")
parser.add_argument("--embedder", default="smollm2", help="such as Qwen/Qwen3-Embedding-0.6B")
parser.add_argument("--data", type=Path, help="folder with metadata.jsonl (default: one is made of the mini world)")
parser.add_argument("--world", type=Path, default=Path("runs/mini"), help="of which that is made")
parser.add_argument("--pictures", type=int, default=200, help="of them, to train on; half as many are held out")
parser.add_argument("--out", type=Path, default=Path("runs/examples/align"), help="run folder")
parser.add_argument("--set", action="append", default=[], dest="settings", help="field of the recipe, as proclip align")
arguments = parser.parse_known_args()[0]  # a notebook has arguments of its own

# %% The data: a folder of pictures, and metadata.jsonl with a line a picture (docs/data_format.md)
folder = arguments.data
if folder is None:
    try:
        world, rows = proclip.ImageCaptions(arguments.world), []
    except proclip.ProclipError as error:
        parser.error(str(error))
    folder = arguments.out.with_name("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("align", arguments.pictures), ("test", arguments.pictures // 2)):
        for sample in world.select(split, ["short", "long"])[:count]:
            name = sample.key.replace("/", "-") + ".png"
            shutil.copyfile(str(sample.picture), folder / name)
            texts = {"short": sample.captions["short"], "long": sample.captions["long"]}
            rows.append({"file_name": name, "split": split, **texts})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
first = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[0]
print(f"{folder}/metadata.jsonl begins with\n  {first[:150]} ...")

# %% Both stages; run again, what is done stays done
try:
    out = align_folder(arguments.clip, arguments.embedder, folder, arguments.out, ["short", "long"], arguments.settings)
except proclip.ProclipError as error:
    parser.error(str(error))
print(f"the model is in {out}")

# %% What was gained: captions of held-out pictures, before and after
data = proclip.ImageCaptions(folder)
samples = list(data.select("test" if "test" in data.splits else "not train"))
pictures = [str(sample.picture) for sample in samples]
print(f"\nright picture first, of {len(samples)} that were held out\n{'captions':10} {'before':>8} {'after':>8}")
models = [proclip.load(arguments.clip), proclip.load(out)]
for column in ("short", "long"):
    found = []
    for model in models:
        captions = model.encode_text([sample.captions[column] for sample in samples])
        nearest = model.similarity(model.encode_image(pictures), captions).argmax(dim=0)
        found.append(float((nearest == torch.arange(len(samples))).float().mean()))
    print(f"{column:10} {found[0]:8.1%} {found[1]:8.1%}")

# %% Use it: the folder is all that a user needs (the LLM is named in it, or inside with include_embedder=True)
model = proclip.load(out)
query = samples[0].captions["long"]
best = int(model.similarity(model.encode_image(pictures), model.encode_text(query)).argmax())
print(f"\n{query[:120]} ...\n  finds {Path(pictures[best]).name}; the right one is {Path(pictures[0]).name}")
