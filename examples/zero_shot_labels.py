"""Sort pictures by labels of your own, without training: what each label's chance is, and what templates change.

python examples/zero_shot_labels.py [PICTURE ...] --labels "a dog,a cat"
"""

# %% What to look at, and the labels
from __future__ import annotations

import argparse
from pathlib import Path

import proclip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("pictures", nargs="*", help="picture files (default: five drawings of the mini world)")
parser.add_argument("--model", default="runs/quickstart/proclip_multilingual")
parser.add_argument("--labels", default="vehicle,mammal,fruit,hand,flag")
parser.add_argument("--templates", default="a drawing of a {},an emoji: {},a picture that shows a {}")
arguments = parser.parse_known_args()[0]  # a notebook has arguments of its own

DRAWINGS = ("1F692", "1F98A", "1F353", "1F44D", "1F3F4")  # fire engine, fox, strawberry, thumbs up, black flag
pictures = [Path(p) for p in arguments.pictures or (f"runs/mini/images/openmoji/{d}.png" for d in DRAWINGS)]
labels, templates = arguments.labels.split(","), arguments.templates.split(",")

# %% One call: chances that sum to 1 over the labels
try:
    model = proclip.load(arguments.model)
    chances = model.zero_shot(pictures, labels, templates)
except proclip.ProclipError as error:
    parser.error(str(error))

for picture, row in zip(pictures, chances, strict=True):
    print(picture.name)
    for chance, label in sorted(zip(row.tolist(), labels, strict=True), reverse=True)[:3]:
        print(f"  {label:12} {chance:6.1%} {'#' * round(30 * chance)}")

# %% Templates matter: one alone, and the mean of all
print(f"\n{'mean chance of the label chosen':>60}")
for template in [*templates, templates]:
    one = model.zero_shot(pictures, labels, template)
    changed = int((one.argmax(dim=1) != chances.argmax(dim=1)).sum())
    name = template if isinstance(template, str) else f"all {len(templates)}"
    print(f"{name:40} {one.max(dim=1).values.mean():8.1%}   {changed} of {len(pictures)} pictures get another label")

# %% Many pictures, few labels: the classifier is a matrix, made once
classifier = model.zero_shot_classifier(labels, templates)  # [d, c]
embeds = model.encode_image(pictures, show_progress_bar=len(pictures) > 1000)  # [n, d]
best = (embeds @ classifier).argmax(dim=1).tolist()
print("\nlabel of each:", ", ".join(f"{p.stem}: {labels[b]}" for p, b in zip(pictures, best, strict=True)))
