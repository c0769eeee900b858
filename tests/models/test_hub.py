"""Models by name: a folder, the hub, or nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.clip import checkpoint_folder
from proclip.models.embedder import embedder_identity
from proclip.models.hub import hub_folder, hub_origin


def test_a_folder_is_itself_and_what_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_folder(str(tmp_path), None, ["*"]) == tmp_path
    asked = []

    def offline(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        raise LocalEntryNotFoundError("no network\nand a long explanation")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    with pytest.raises(
        ProclipError, match=r"^'org/clip' is neither a folder nor a checkpoint .* gives: no network and a .*$"
    ):
        checkpoint_folder("org/clip", "main")
    with pytest.raises(ProclipError, match=r"^embedder\.model 'org/llm' is neither a folder"):
        embedder_identity(EmbedderConfig(model="org/llm", revision="abc"))
    with pytest.raises(ProclipError, match=r"^embedder\.lora 'org/lora' is neither a folder"):
        embedder_identity(EmbedderConfig(model=str(tmp_path), lora=("org/lora",)))
    code = EmbedderConfig(model="org/llm", backend="sentence-transformers", trust_remote_code=True)
    with pytest.raises(ProclipError, match=r"code of 'org/llm' as the hub has it .* --set embedder\.revision=COMMIT"):
        embedder_identity(code)
    assert [name for name, _, _ in asked] == ["org/clip", "org/llm", "org/lora"]
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    with pytest.raises(ProclipError, match=r"gives: it is not in the cache, and HF_HUB_OFFLINE is set$"):
        checkpoint_folder("org/clip")
    with pytest.raises(ProclipError, match=r"^embedder\.model 'org/llm' is neither a folder"):
        embedder_identity(replace(code, revision="abc"))
    assert asked[-1][1] == "abc" and "*.py" in asked[-1][2]
    assert asked[1][1] == "abc" and "*.py" not in asked[1][2]


def test_what_this_machine_has_is_all_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"^'org/clip' is neither .* not in the cache, and .* is set$"):
        checkpoint_folder("org/clip", cache_dir=tmp_path, local_files_only=True)


def test_the_origin_of_a_folder(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    for place, origin in (
        ("models--org--m/snapshots", ("org/m", commit)),
        ("models--gpt2/snapshots", ("gpt2", commit)),
        ("datasets--org--m/snapshots", None),
        ("mine/snapshots", None),
        ("models--org--m/copies", None),
    ):
        assert hub_origin(tmp_path / place / commit) == origin
    assert hub_origin(tmp_path / "models--org--m" / "snapshots" / "main") is None
