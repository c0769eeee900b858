"""Model folders: the image side alone, the LLM inside, whole or not at all, the hub's commits, the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models import embedder as embedder_module
from proclip.models import saving
from proclip.models.card import front_matter, hub_id, licence_of, without_places
from proclip.models.hub import lasting_name
from proclip.models.proclip import ProCLIP
from proclip.models.saving import pinned_embedder, pinned_revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tiny_proclip_path: Path) -> ProCLIP:
    return ProCLIP.from_pretrained(tiny_proclip_path)


@pytest.fixture
def pictures(tiny_world: Path) -> list[Path]:
    return sorted((tiny_world / "images").glob("*.png"))


def forbid(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(module, name, fail)


def test_the_image_side_never_looks_for_the_llm(
    tiny_proclip_path: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_proclip_path, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["embedder"]["model"] = "nobody/has-this-llm"
    (folder / "config.json").write_text(json.dumps(config))
    for module in (embedder_module, saving):
        forbid(monkeypatch, module, "locate")
    forbid(monkeypatch, huggingface_hub, "snapshot_download")
    model = ProCLIP.from_pretrained(folder)
    assert model.encode_image(pictures).shape == (12, 16)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(ProCLIP.from_pretrained(tmp_path / "again").encode_image(pictures), model.encode_image(pictures))
    with pytest.raises(AssertionError, match="locate was called"):
        model.encode_text("a")


def test_the_llm_inside(
    model: ProCLIP, tiny_llm_path: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = shutil.copytree(tiny_llm_path, tmp_path / "llm" / "tiny-llm")
    assert model.embedder_config is not None
    model.embedder_config = EmbedderConfig(model=str(llm), dtype="float32", layer=1)
    (llm / "notes.bin").write_text("not a file of the model")
    texts = ["a red bar", "grün"]
    before = model.encode_text(texts)
    model.save_pretrained(tmp_path / "one", include_embedder=True)
    assert not (tmp_path / "one" / "embedder" / "tiny-llm" / "notes.bin").exists()
    assert json.loads((tmp_path / "one" / "config.json").read_text())["embedder"]["model"] == "embedder/tiny-llm"
    shutil.rmtree(llm)
    shutil.move(tmp_path / "one", tmp_path / "moved")  # nothing but the folder is needed, wherever it stands
    inside = ProCLIP.from_pretrained(tmp_path / "moved")
    assert torch.equal(inside.encode_text(texts), before)
    inside.save_pretrained(tmp_path / "two")  # as it was loaded: inside
    assert torch.equal(ProCLIP.from_pretrained(tmp_path / "two").encode_text(texts), before)
    inside.save_pretrained(tmp_path / "moved", "new notes")  # over itself: the LLM stays where it is
    assert torch.equal(ProCLIP.from_pretrained(tmp_path / "moved").encode_text(texts), before)
    inside.save_pretrained(tmp_path / "three", include_embedder=False)
    assert not (tmp_path / "three" / "embedder").exists()
    assert torch.equal(ProCLIP.from_pretrained(tmp_path / "three").encode_text(texts), before)
    config = tmp_path / "moved" / "embedder" / "tiny-llm" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(ProclipError, match="not the one the adapter was trained with: files"):
        ProCLIP.from_pretrained(tmp_path / "moved").encode_text("a")
    with pytest.raises(ProclipError, match="not the one the adapter was trained with: files"):
        ProCLIP.from_pretrained(tmp_path / "moved").save_pretrained(tmp_path / "four")
    assert not (tmp_path / "four").exists()
    assert config.is_file()


def test_a_gguf_llm_inside(model: ProCLIP, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    config = EmbedderConfig(model="smollm2", layer=1, max_length=16, dtype="float32")
    try:
        identity = embedder_module.embedder_identity(config)
    except ProclipError as error:
        pytest.skip(str(error))
    model.embedder_config, model.embedder_identity = config, identity
    model.save_pretrained(tmp_path / "model", include_embedder=True)
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["embedder"]["model"] == "embedder/smollm2" and saved["embedder"]["gguf_file"].endswith(".gguf")
    assert saved["embedder_identity"] == identity
    loaded = ProCLIP.from_pretrained(tmp_path / "model")
    assert loaded.embedder.identity == identity
    shutil.rmtree(tmp_path / "model")


def test_whole_or_not_at_all(model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save_pretrained(tmp_path / "old")
    old = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    with torch.no_grad():
        model.logit_scale.add_(0.5)
    with monkeypatch.context() as patch:
        forbid(patch, saving, "write_tensors")
        patch.setattr("proclip.models.proclip.write_tensors", saving.write_tensors)
        for folder in ("new", "old"):
            with pytest.raises(AssertionError, match="write_tensors was called"):
                model.save_pretrained(tmp_path / folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == old
    (tmp_path / "empty").mkdir()
    for folder in ("new/below", "old", "empty"):
        model.save_pretrained(tmp_path / folder)
        assert ProCLIP.from_pretrained(tmp_path / folder).logit_scale.item() == 2.5
        assert {p.name for p in (tmp_path / folder).iterdir()} == set(old)


class FakeHub:
    """Stands in for ``HfApi``: keeps what is uploaded."""

    def __init__(self) -> None:
        self.created: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}

    def __call__(self) -> FakeHub:
        return self

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.created[repo_id] = private

    def upload_folder(self, repo_id: str, folder_path: str) -> str:
        assert repo_id in self.created
        root = Path(folder_path)
        self.files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        return f"https://hub/{repo_id}/commit/{COMMIT}"


def test_push_and_load_from_the_hub(
    model: ProCLIP, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    assert model.push_to_hub("me/mine", private=True, include_embedder=True).endswith(COMMIT)
    assert hub.created == {"me/mine": True}
    assert {"config.json", "model.safetensors", "modules.json", "README.md"} <= set(hub.files)
    assert "embedder/tiny-llm/model.safetensors" in hub.files
    assert 'proclip.load("me/mine")' in hub.files["README.md"].decode()
    snapshot = tmp_path / "models--me--mine" / "snapshots" / COMMIT
    asked: list[str] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], **access: Any) -> str:
        from fnmatch import fnmatch

        assert name == "me/mine" and revision in (None, COMMIT) and access.pop("token") == "secret"
        assert access in ({}, {"cache_dir": tmp_path})  # where the first files are, there the LLM's come too
        for file, content in hub.files.items():
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                asked.append(file)
                (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                (snapshot / file).write_bytes(content)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = ProCLIP.from_pretrained("me/mine", token="secret")
    assert torch.equal(loaded.encode_image(pictures), model.encode_image(pictures))
    assert "embedder/tiny-llm/model.safetensors" not in asked  # the LLM comes with the first text
    assert torch.equal(loaded.encode_text("a red bar"), model.encode_text("a red bar"))
    assert loaded.saved_config()["loaded_from"] == f"me/mine@{COMMIT}"
    loaded.save_pretrained(tmp_path / "again")
    assert "secret" not in (tmp_path / "again" / "config.json").read_text()
    again = ProCLIP.from_pretrained(tmp_path / "again")
    assert torch.equal(again.encode_text("a red bar"), model.encode_text("a red bar"))
    assert ProCLIP.from_pretrained(snapshot).loaded_from == f"me/mine@{COMMIT}"


def test_hub_revisions_are_pinned(model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name, file in (("models--org--llm", "config.json"), ("models--org--clip", "config.json")):
        (tmp_path / name / "snapshots" / COMMIT).mkdir(parents=True)
        (tmp_path / name / "snapshots" / COMMIT / file).write_text("{}")
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs" / "main").write_text(COMMIT)
    assert pinned_revision("org/llm", None) == COMMIT
    assert pinned_revision("org/llm", "main") == COMMIT
    assert pinned_revision("org/other", "v1") == "v1" and pinned_revision("org/other", None) is None
    assert pinned_revision(str(tmp_path), None) is None and pinned_revision("mini-clip", None) is None
    assert pinned_embedder(EmbedderConfig(model="org/llm")).revision == COMMIT
    model.clip_name, model.embedder_config = "org/clip", EmbedderConfig(model="org/llm")
    config = model.saved_config()
    assert config["clip_revision"] == config["embedder"]["revision"] == COMMIT


def test_the_card(model: ProCLIP, tmp_path: Path) -> None:
    model.clip_name = "openai/clip-vit-base-patch32"
    model.embedder_config = EmbedderConfig(model="Qwen/Qwen3-Embedding-0.6B", backend="sentence-transformers")
    model.embedder_identity = None
    model.provenance = {
        "recipe": "r", "seed": 1, "config_hash": "abc", "commands": ["proclip train /home/me/r.toml --out=/x/run"],
        "data": {"dataset": "coco + 2 x /mnt/big/cc3m", "stages": {"stage 1": "split `align`"}},
    }  # fmt: skip
    model.save_pretrained(tmp_path / "m", "## Figures\n\n| a | b |")
    text = (tmp_path / "m" / "README.md").read_text()
    matter = front_matter(text)
    assert matter["library_name"] == "proclip-align" and matter["license"] == "other"
    assert (
        'pip install "proclip-align[llm]"' in text
        and 'proclip.load("FOLDER-OR-HUB-ID")' in text
        and "import proclip\n" in text
    )
    assert matter["base_model"] == ["openai/clip-vit-base-patch32", "Qwen/Qwen3-Embedding-0.6B"]
    assert {"sentence-transformers", "clip"} <= set(matter["tags"])
    for part in (
        "## Licences",
        "Apache-2.0",
        "MIT",
        "hash `abc`",
        "| a | b |",
        "proclip train r.toml --out=run",
        "`coco + 2 x cc3m`",
    ):
        assert part in text
    assert huggingface_hub.ModelCard(text).data.to_dict()["license"] == "other"  # the hub's own reader
    assert ProCLIP.from_pretrained(tmp_path / "m").provenance == model.provenance
    model.clip_name = "mini-clip"
    model.provenance = {"data": {"benchmark": {"name": "mini-world", "version": "1", "checksum": "ab"}}}
    model.save_pretrained(tmp_path / "n")
    mini = front_matter((tmp_path / "n" / "README.md").read_text())
    assert mini["license"] == "cc-by-sa-4.0" and mini["base_model"] == ["Qwen/Qwen3-Embedding-0.6B"]
    assert hub_id("a/b") == "a/b" and hub_id("./a") is None and hub_id("/a/b") is None and hub_id("smollm2") is None
    assert "not known" in licence_of("some/one")
    assert front_matter("no card") == {} and front_matter("---\na: 1\n- b\n---\n")["a"] == 1


@pytest.mark.network
def test_a_real_push(model: ProCLIP) -> None:  # needs a token: hf auth login
    name = huggingface_hub.HfApi().whoami()["name"]
    repo = f"{name}/proclip-test"
    try:
        model.push_to_hub(repo, private=True)
        loaded = ProCLIP.from_pretrained(repo)
        assert loaded.loaded_from is not None and loaded.loaded_from.startswith(f"{repo}@")
    finally:
        huggingface_hub.HfApi().delete_repo(repo, missing_ok=True)


def test_a_model_finds_its_folders_from_anywhere(
    model: ProCLIP, tiny_llm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained with relative paths, used from another folder; then the LLM is moved."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    shutil.copytree(tiny_llm_path, here / "llm")
    (here / "clip").mkdir()
    monkeypatch.chdir(here)
    model.clip_name = "clip"
    model.embedder_config = EmbedderConfig(model="llm", dtype="float32", layer=1)
    model.embedder_identity = embedder_module.embedder_identity(model.embedder_config)
    wanted = model.encode_text("a red bar")
    model.save_pretrained("model")
    monkeypatch.chdir(there)
    loaded = ProCLIP.from_pretrained(here / "model")
    assert torch.equal(loaded.encode_text("a red bar"), wanted)
    assert loaded.clip_name == str(here / "clip")
    assert str(tmp_path) not in (here / "model" / "README.md").read_text()

    shutil.move(here / "llm", there / "renamed")
    with pytest.raises(
        ProclipError, match=r"embedder\.model '.*/here/llm' is neither .*from_pretrained\(\.\.\., embedder=PATH"
    ):
        ProCLIP.from_pretrained(here / "model").encode_text("a red bar")
    moved = ProCLIP.from_pretrained(here / "model", embedder="renamed")
    assert torch.equal(moved.encode_text("a red bar"), wanted)
    moved.save_pretrained(there / "again")
    monkeypatch.chdir(here)
    assert torch.equal(ProCLIP.from_pretrained(there / "again").encode_text("a red bar"), wanted)
    (there / "renamed" / "config.json").write_text((there / "renamed" / "config.json").read_text() + " ")
    with pytest.raises(ProclipError, match="not the one the adapter was trained with: files: want"):
        ProCLIP.from_pretrained(there / "again").encode_text("a red bar")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "proclip embed /a/b/r.toml --set data.dataset=/c/d/ --out runs/x",
            "proclip embed r.toml --set data.dataset=d --out runs/x",
        ),
        ('--set data.dataset=[{path = "/a/b"}, {path = "c/d"}]', '--set data.dataset=[{path = "b"}, {path = "c/d"}]'),
        ("tuned: `/a/run` (sha256 ab/c)", "tuned: `run` (sha256 ab/c)"),
        (
            "open_clip:ViT-B-32//a/w.safetensors and open_clip:/a/eva",
            "open_clip:ViT-B-32/w.safetensors and open_clip:eva",
        ),
        (r"--out C:\Users\me\run", "--out run"),
        (
            "https://host/a/b, hf:org/set, ./a/b, ../a, ~/a, a / b",
            "https://host/a/b, hf:org/set, ./a/b, ../a, ~/a, a / b",
        ),
    ],
)
def test_absolute_paths_lose_their_place(text: str, shown: str) -> None:
    assert without_places(text) == shown


def test_names_that_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clip", "mini-clip", "eva"):
        (tmp_path / name).mkdir()
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert lasting_name("clip") == str(tmp_path / "clip") == lasting_name("./clip")
    assert lasting_name("open_clip:eva") == f"open_clip:{tmp_path}/eva"
    assert lasting_name("open_clip:ViT-B-32/w.safetensors") == f"open_clip:ViT-B-32/{tmp_path}/w.safetensors"
    for name in ("mini-clip", "org/clip", "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32", "hf-hub:org/name"):
        assert lasting_name(name) == name
