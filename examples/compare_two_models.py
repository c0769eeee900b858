"""Which of two models finds more, on which captions, and where do they differ?

python examples/compare_two_models.py [--first mini-clip] [--second FOLDER]

For figures with intervals, over many benchmarks: proclip eval, and proclip eval --compare.
"""

# %% Two models, whatever their kind, and captioned pictures that neither was trained on
from __future__ import annotations

import argparse

import torch

import proclip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--first", default="mini-clip")
parser.add_argument("--second", default="runs/quickstart/proclip_multilingual")
parser.add_argument("--data", default="runs/mini", help="data set with the split test")
parser.add_argument("--columns", default="name_en,name_de,short,long", help="captions to search by")
parser.add_argument("--pictures", type=int, default=150, help="at most")
arguments = parser.parse_known_args()[0]  # a notebook has arguments of its own
columns = arguments.columns.split(",")

try:
    models = {name: proclip.load(name) for name in (arguments.first, arguments.second)}
    samples = list(proclip.ImageCaptions(arguments.data).select("test", columns))
except proclip.ProclipError as error:
    parser.error(str(error))
samples = [sample for sample in samples if not sample.key.startswith("twemoji")][: arguments.pictures]
pictures = [str(sample.picture) for sample in samples]

# %% Place of the right picture for each caption, 1 is first; both models have the same methods
places: dict[tuple[str, str], torch.Tensor] = {}
for name, model in models.items():
    image_embeds = model.encode_image(pictures)
    for column in columns:
        text_embeds = model.encode_text([sample.captions[column] for sample in samples])
        cosines = model.similarity(image_embeds, text_embeds).T  # [captions, pictures]
        right = cosines.diagonal().unsqueeze(1)
        places[name, column] = (cosines >= right).sum(dim=1)

# %% How often it is first, and among the first ten
width = max(map(len, models))
print(f"{len(samples)} pictures, text to picture\n{'captions':10} {'model':{width}} {'first':>8} {'in ten':>8}")
for column in columns:
    for name in models:
        place = places[name, column]
        first, ten = (place == 1).float().mean(), (place <= 10).float().mean()
        print(f"{column:10} {name:{width}} {first:8.1%} {ten:8.1%}")

# %% Where they differ most: the right picture is far up with one and far down with the other
column = columns[-1]
change = places[arguments.first, column] - places[arguments.second, column]
for title, order in (("gained", change.argsort(descending=True)), ("lost", change.argsort())):
    print(f"\n{title} most by {arguments.second}, captions {column!r}:")
    for row in order[:3].tolist():
        before, after = (int(places[name, column][row]) for name in models)
        print(f"  place {before:3} -> {after:3}  {samples[row].captions[column][:90]}")
