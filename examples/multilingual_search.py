"""Search a folder of pictures in several languages.

python examples/multilingual_search.py FOLDER [--query "ein roter Apfel"]
"""

# %% A folder, a model, and queries
from __future__ import annotations

import argparse
from pathlib import Path

import proclip
from proclip.search import update_index

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/mini/images/openmoji"))
parser.add_argument("--model", default="runs/quickstart/proclip_multilingual")
parser.add_argument("--index", type=Path, default=Path("runs/examples/index"), help="made, or brought up to date")
parser.add_argument("--names", type=Path, default=Path("runs/mini"), help="data set that names the pictures, if any")
parser.add_argument("--query", action="append", default=[])
arguments = parser.parse_known_args()[0]  # a notebook has arguments of its own

QUERIES = {
    "English": "man surfing",
    "German": "ein Mann surft",
    "Spanish": "hombre haciendo surf",
    "Russian": "серфингист",
    "Arabic": "راكب أمواج",
    "Chinese": "男生冲浪",
    "Japanese": "サーフィンする男",
}
queries = {str(number): query for number, query in enumerate(arguments.query, 1)} or QUERIES

# %% The index: every picture once; run again, only what is new or changed
try:
    report = update_index(arguments.index, [arguments.folder], arguments.model)
except proclip.ProclipError as error:
    parser.error(str(error))
print(f"{report.pictures:,} pictures, {report.encoded:,} of them encoded now")

# %% What people would call the pictures
names: dict[str, str] = {}
if (arguments.names / "metadata.jsonl").is_file():
    for sample in proclip.ImageCaptions(arguments.names).samples:
        names[str(Path(str(sample.picture)).resolve())] = sample.captions.get("name_en", sample.key)

# %% Search: the text side reads each query in its own language
with proclip.Index.open(arguments.index) as index:
    for language, query in queries.items():
        hits = index.search(query, k=4)
        found = ", ".join(f"{names.get(str(hit.path), hit.path.name)} ({hit.score:.2f})" for hit in hits)
        print(f"{language:9} {query:20} {found}")

# %% Do the languages agree? The cosine of the queries with each other
model = proclip.load(arguments.model)
embeds = model.encode_text(list(queries.values()))
print("\ncosine of each query with the first:")
for language, cosine in zip(queries, (embeds @ embeds[0]).tolist(), strict=True):
    print(f"{language:9} {cosine:5.2f} {'#' * round(30 * max(cosine, 0))}")
