"""What a long caption is worth: a CLIP stops after 77 tokens, an LLM reads on.

python examples/long_captions.py [--model FOLDER] [--clip mini-clip]
"""

# %% Long captions of pictures that no model was trained on
from __future__ import annotations

import argparse

import proclip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="runs/quickstart/proclip_multilingual")
parser.add_argument("--clip", default="mini-clip", help="with a text tower of its own")
parser.add_argument("--data", default="runs/mini", help="data set with the split test")
parser.add_argument("--captions", default="long", help="its column of long captions")
parser.add_argument("--pictures", type=int, default=150, help="at most")
arguments = parser.parse_known_args()[0]  # a notebook has arguments of its own

try:
    clip, model = proclip.load_clip(arguments.clip), proclip.load(arguments.model)
    samples = list(proclip.ImageCaptions(arguments.data).select("test", [arguments.captions]))
except proclip.ProclipError as error:
    parser.error(str(error))
if not isinstance(model, proclip.ProCLIP):
    parser.error(f"--model: {arguments.model} is a CLIP; name a model that proclip made, such as a run folder")
samples = [sample for sample in samples if not sample.key.startswith("twemoji")][: arguments.pictures]
pictures = [str(sample.picture) for sample in samples]
captions = [sample.captions[arguments.captions] for sample in samples]

# %% How long they are, and how many the CLIP cannot read to the end
words = sorted(len(caption.split()) for caption in captions)
cut = clip.cuts(captions)
print(f"{len(captions)} captions of {words[0]} to {words[-1]} words, half of them above {words[len(words) // 2]}")
print(f"{arguments.clip} cuts {sum(cut)} of them; {arguments.model} reads {model.max_text_length} tokens\n")

# %% Give each model more and more of the caption: how often is the right picture first?
print(f"{'words':>8} {arguments.clip:>12} {'ours':>12}")
embeds = {"clip": clip.encode_image(pictures), "ours": model.encode_image(pictures)}
for count in (5, 10, 20, 40, 80, 0):
    texts = [" ".join(caption.split()[: count or None]) for caption in captions]
    row = []
    for name, encoder in (("clip", clip), ("ours", model)):
        cosines = encoder.similarity(embeds[name], encoder.encode_text(texts)).T  # [captions, pictures]
        right = cosines.diagonal().unsqueeze(1)
        row.append(float(((cosines >= right).sum(dim=1) == 1).float().mean()))
    print(f"{count or 'all':>8} {row[0]:12.1%} {row[1]:12.1%}")

# %% The end of a caption counts: the same beginning, two endings
start = captions[0].rsplit(". ", 1)[0] + ". "
endings = ("The picture shows a fox.", "The picture shows a fire engine.")
print("\ncosine of two texts that differ in their last words alone, after", len(start.split()), "words:")
for name, encoder in ((arguments.clip, clip), (arguments.model, model)):
    first, second = encoder.encode_text([start + ending for ending in endings])
    print(f"  {float(first @ second):.4f}  {name}")
