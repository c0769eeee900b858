"""The model card saved with a model: what it is made of, from what data, by which commands, under what licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DISTRIBUTION = "proclip-align"
"""What the package index calls this package; its ``proclip`` is an unrelated tool."""
BASE_TAGS = ("clip", "feature-extraction", "image-feature-extraction", "image-text-retrieval", "proclip")

LICENCES = (
    ("mini-clip", "CC BY-SA 4.0 (trained on OpenMoji, CC BY-SA 4.0, and Twemoji, CC BY 4.0)"),
    ("smollm2", "Apache-2.0 (SmolLM2-135M-Instruct)"),
    ("openai/clip-", "MIT (OpenAI's code repository; the hub page names none)"),
    ("google/siglip", "Apache-2.0"),
    ("Qwen/Qwen3-Embedding-", "Apache-2.0"),
    ("nvidia/NV-Embed-v2", "CC BY-NC 4.0: no commercial use"),
    ("microsoft/LLM2CLIP-", "Apache-2.0"),
    ("meta-llama/", "Llama Community License of that release"),
)
"""What is known of the parts' licences: beginning of a checkpoint's name, and licence as its publisher states it."""
UNKNOWN_LICENCE = "not known here: see its publisher's page"
DATA_LICENCES = {
    "mini-world": "pictures CC BY-SA 4.0 (OpenMoji) and CC BY 4.0 (Twemoji); names BSD-3-Clause and MIT packages",
}
"""By the name that a data set's ``manifest.json`` gives."""
PLACE = re.compile(r"""(?P<address>\w\w+://\S+)|(?:(?<![\w.~-])/|\b[A-Za-z]:[\\/])[^\s'"`,;)\]}]+""")
"""An absolute path in a text; an address of the web is none."""


def without_places(text: str) -> str:
    """A text in which the last part alone is left of each absolute path: where a folder lay says nothing elsewhere."""
    return PLACE.sub(lambda found: found["address"] or re.split(r"[\\/]", found[0].rstrip("\\/"))[-1], text)


def licence_of(checkpoint: str | None) -> str:
    """What is known of a checkpoint's licence."""
    known = (licence for start, licence in LICENCES if checkpoint and checkpoint.startswith(start))
    return next(known, UNKNOWN_LICENCE)


def hub_id(name: str | None) -> str | None:
    """The name, if it is one that the hub could know and not a folder's."""
    parts = (name or "").split("/")
    plain = len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts)
    return name if plain and not Path(str(name)).exists() else None


def model_card(
    config: Mapping[str, Any], embedder: Mapping[str, Any], parameters: Mapping[str, int], notes: str, name: str | None
) -> str:
    """The text of ``README.md``: YAML front matter that the hub reads, then Markdown.

    Args:
        config: the model's ``config.json``.
        embedder: what counts of the embedder, as `embedder_facts` gives it.
        parameters: how many each part has, by the part's name.
        notes: Markdown put at the end, as figures are.
        name: of the repository on the hub, None for a folder, which may be renamed and uploaded.
    """
    sections = [
        _front_matter(config),
        "# ProCLIP model",
        "The image encoder of a CLIP and a frozen LLM-based text embedder in one space, joined by a trained adapter "
        "([ProCLIP, arXiv 2510.18795](https://arxiv.org/abs/2510.18795)). The LLM itself is "
        + ("in the folder `embedder/`." if _embedder_inside(config) else "not in this folder: it is loaded by name."),
        _parts(config, embedder, parameters),
        _usage(config, name),
        _training(config.get("provenance") or {}),
        _licences(config),
        notes.strip(),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _embedder_inside(config: Mapping[str, Any]) -> bool:
    return str(config["embedder"].get("model", "")).startswith("embedder/")


def _benchmark(config: Mapping[str, Any]) -> Mapping[str, Any]:
    benchmark: Mapping[str, Any] = ((config.get("provenance") or {}).get("data") or {}).get("benchmark") or {}
    return benchmark


def _front_matter(config: Mapping[str, Any]) -> str:
    """Every value as JSON, which is YAML too: no name in it can break the block."""
    bases = [base for base in (hub_id(config.get("clip")), hub_id(config["embedder"].get("model"))) if base]
    mini = config.get("clip") == "mini-clip" and _benchmark(config).get("name") == "mini-world"
    values: dict[str, Any] = {
        "library_name": DISTRIBUTION,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [*BASE_TAGS, "sentence-transformers"],
        "license": "cc-by-sa-4.0" if mini else "other",
    }
    if not mini:
        values |= {"license_name": "licences-of-the-parts", "license_link": "README.md#licences"}
    if bases:
        values["base_model"] = bases
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _revision(value: str | None) -> str:
    return f" at revision `{value}`" if value else ""


def _shown(name: Any) -> str:
    """A checkpoint's name, without the place of a folder."""
    return Path(name).name if Path(str(name)).is_absolute() else without_places(str(name))


def _parts(config: Mapping[str, Any], embedder: Mapping[str, Any], parameters: Mapping[str, int]) -> str:
    adapter = config["adapter"]
    said = {**embedder, "lora": [_shown(name) for name in embedder["lora"]]} if "lora" in embedder else embedder
    settings = ", ".join(f"{k} {v!r}" for k, v in said.items() if k not in ("model", "revision", "prompts"))
    prompts = ", ".join(f"{of} {json.dumps(text, ensure_ascii=False)}" for of, text in embedder["prompts"].items())
    tower, clip = config["image_tower"]["family"], _shown(config.get("clip"))
    rows = [
        ("shared space", f"{config['embed_dim']} dimensions"),
        ("image tower", f"{parameters['image_tower']:,} parameters, family `{tower}`, from `{clip}`"
                        f"{_revision(config.get('clip_revision'))}"),
        ("adapter", f"{parameters['adapter']:,} parameters: {config['llm_dim']} to {config['embed_dim']}, "
                    + ", ".join(f"{k} {v!r}" for k, v in adapter.items())),
        ("embedder", f"`{_shown(embedder['model'])}`{_revision(embedder.get('revision'))}, frozen: {settings}"),
        ("text before every", prompts),
    ]  # fmt: skip
    return "\n".join(["| part | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _usage(config: Mapping[str, Any], name: str | None) -> str:
    extras = "llm,open-clip" if config["image_tower"]["family"] == "open_clip" else "llm"
    quoted = json.dumps(name or "FOLDER-OR-HUB-ID")
    return f"""## Use

```
pip install "{DISTRIBUTION}[{extras}]"
```

The package that is then imported is called `proclip`; what the package index has under that name is an unrelated tool.

```python
import proclip

model = proclip.load({quoted})
scores = model.similarity(model.encode_image("picture.jpg"), model.encode_text("a caption"))
```

With sentence-transformers (the flag lets it import the class `ProCLIPModule` of the installed package):

```python
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({quoted}, trust_remote_code=True)
model.similarity(model.encode([Image.open("picture.jpg")]), model.encode(["a caption"]))
```"""


def _training(provenance: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if origin := provenance.get("converted_from"):
        files = ", ".join(f"`{file}` (sha256 {digest})" for file, digest in origin["sha256"].items())
        lines.append(f"- converted from `{origin['source']}`{_revision(origin.get('revision'))}: {files}")
    for parent in provenance.get("parents", []):
        lines.append(f"- parent: {parent}")
    if "alpha" in provenance:
        lines.append(
            f"- image tower: interpolated, (1 - a) original + a tuned with a = {provenance['alpha']:g} "
            "(WiSE-FT, arXiv 2109.01903); adapter and temperature are the tuned model's"
        )
    if recipe := provenance.get("recipe"):
        lines.append(f"- recipe `{recipe}`, seed {provenance.get('seed')}, hash `{provenance.get('config_hash')}`")
    if data := provenance.get("data"):
        lines.append(f"- data: `{data.get('dataset')}`{_version(data.get('benchmark'))}")
        lines += [f"- {stage}: {text}" for stage, text in (data.get("stages") or {}).items()]
    if versions := provenance.get("versions"):
        commit = f", commit {provenance['commit']}" if provenance.get("commit") else ""
        lines.append("- with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + commit)
    commands: Sequence[str] = provenance.get("commands", [])
    if commands:
        lines += ["", "```", *commands, "```"]
    return "\n".join(["## How it was made", "", *map(without_places, lines)]) if lines else ""


def _version(benchmark: Mapping[str, Any] | None) -> str:
    if not benchmark:
        return ""
    checksum = str(benchmark.get("checksum", ""))[:12]
    return f", {benchmark.get('name')} version {benchmark.get('version')} (checksum `{checksum}`)"


def _licences(config: Mapping[str, Any]) -> str:
    clip, embedder, name = config.get("clip"), config["embedder"].get("model"), _benchmark(config).get("name")
    known = (config.get("embedder_identity") or {}).get("model") or embedder
    data = DATA_LICENCES.get(str(name), "not known here: that of the data set it was trained on")
    rows = [
        ("image tower", f"`{_shown(clip)}`", licence_of(clip)),
        ("embedder", f"`{_shown(embedder)}`", licence_of(str(known))),
        ("training data", f"`{name}`" if name else "", data),
    ]
    table = "\n".join(f"| {part} | {checkpoint} | {licence} |" for part, checkpoint, licence in rows)
    return (
        "## Licences\n\nThe parts keep their own licences; the weights of image tower and adapter derive from all "
        f"three.\n\n| part | | licence |\n|---|---|---|\n{table}"
    )


def front_matter(text: str) -> dict[str, Any]:
    """The flat ``key: value`` lines between the first two ``---`` of a card, values read as JSON where they are.

    Other YAML (nested tables, block lists) stays out: this reads what `model_card` writes, and simple cards of others.
    """
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    found: dict[str, Any] = {}
    for line in text[4:].split("\n---", 1)[0].splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip() and not line.startswith((" ", "-", "#")):
            try:
                found[key.strip()] = json.loads(value)
            except ValueError:
                found[key.strip()] = value.strip()
    return found
