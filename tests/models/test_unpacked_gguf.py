"""A GGUF file's model is read once and kept: the same weights and tokens, and never one of another file."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from filelock import FileLock
from transformers import AutoModel, AutoTokenizer, Qwen2Tokenizer

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models import unpacked_gguf
from proclip.models.embedder import load_embedder
from proclip.models.embedder_source import SMOLLM2_FILE, EmbedderSource
from proclip.models.unpacked_gguf import Loaded, is_smollm2, load_unpacked


class Reader:
    """Loads the tiny LLM in a GGUF file's place, and remembers from where each time."""

    def __init__(self, llm: Path) -> None:
        self.llm, self.read = llm, list[str | None]()

    def __call__(self, folder: Path, gguf_file: str | None) -> Loaded:
        self.read.append(gguf_file)
        source = folder if gguf_file is None else self.llm
        try:
            return AutoModel.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)
        except Exception as error:
            raise ProclipError(f"does not load: {error}") from error


@pytest.fixture
def reader(tiny_llm_path: Path) -> Reader:
    return Reader(tiny_llm_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "of.Q4_1.gguf"
    path.write_bytes(b"GGUF and weights")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "proclip" / "gguf"


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_it_is_read_once(reader: Reader, file: Path, cache: Path) -> None:
    (model, tokenizer), (again, its) = (load_unpacked(file, torch.float32, reader) for _ in range(2))
    assert reader.read == [file.name, None] and len(folders(cache)) == 1
    assert folders(cache)[0].name.startswith("of.Q4_1-")
    torch.testing.assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert its("a red bar")["input_ids"] == tokenizer("a red bar")["input_ids"]


def test_what_is_kept_is_of_this_file_precision_and_version(
    reader: Reader, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_unpacked(file, torch.float32, reader)
    load_unpacked(file, torch.bfloat16, reader)
    file.write_bytes(b"GGUF and WEIGHTS")  # of the same size
    load_unpacked(file, torch.float32, reader)
    monkeypatch.setattr(unpacked_gguf, "version", lambda name: "9.0")
    load_unpacked(file, torch.float32, reader)
    assert reader.read == [file.name] * 4 and len(folders(cache)) == 4


def test_damage_is_mended(reader: Reader, file: Path, cache: Path) -> None:
    load_unpacked(file, torch.float32, reader)
    weights = folders(cache)[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (folders(cache)[0] / "left").write_text("of another time")
    for _ in range(2):
        load_unpacked(file, torch.float32, reader)
    assert reader.read == [file.name, file.name, None] and not (folders(cache)[0] / "left").exists()


def test_what_cannot_be_read_is_left_alone(
    reader: Reader, file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_unpacked(file, torch.float32, reader)

    def load(folder: Path, gguf_file: str | None) -> Loaded:
        if gguf_file is None:
            raise ProclipError("Permission denied")
        return reader(folder, gguf_file)

    load_unpacked(file, torch.float32, load)
    assert f"{folders(cache)[0]} is not used: Permission denied" in caplog.text
    load_unpacked(file, torch.float32, reader)
    assert reader.read == [file.name, file.name, None]


def test_all_may_read_what_their_umask_lets_them(reader: Reader, file: Path, cache: Path) -> None:
    load_unpacked(file, torch.float32, reader)
    modes = {path.stat().st_mode & 0o777 for path in folders(cache)[0].iterdir()}
    (cache / "new").touch()
    assert modes == {(cache / "new").stat().st_mode & 0o777}


def test_one_that_another_process_writes_is_left_to_it(reader: Reader, file: Path, cache: Path) -> None:
    load_unpacked(file, torch.float32, reader)
    (folder,) = folders(cache)
    shutil.rmtree(folder)
    with FileLock(f"{folder}.lock"):
        load_unpacked(file, torch.float32, reader)
    assert reader.read == [file.name] * 2 and not folder.exists()


def test_a_tokenizer_that_does_not_come_back_is_not_kept(
    reader: Reader, file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Qwen2's is made with its normalizer again, whatever the file has."""

    def load(folder: Path, gguf_file: str | None) -> Loaded:
        model, tokenizer = reader(folder, gguf_file)
        qwen = Qwen2Tokenizer(vocab=tokenizer.get_vocab(), merges=[])
        if without_normalizer:
            qwen.backend_tokenizer.normalizer = None
        return model, qwen

    without_normalizer = True
    load_unpacked(file, torch.float32, load)
    assert "its tokenizer is another one when it is read back" in caplog.text and not folders(cache)
    without_normalizer = False
    load_unpacked(file, torch.float32, load)
    assert len(folders(cache)) == 1


def test_a_fault_of_the_file_is_said_and_nothing_kept(reader: Reader, file: Path, cache: Path, tmp_path: Path) -> None:
    reader.llm = tmp_path
    with pytest.raises(ProclipError, match="does not load"):
        load_unpacked(file, torch.float32, reader)
    assert not cache.exists()


def test_without_a_place_it_is_read_each_time(
    reader: Reader, file: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "assets").write_text("no folder")
    for _ in range(2):
        load_unpacked(file, torch.float32, reader)
    assert reader.read == [file.name] * 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert f"{file} is read whole at every start" in caplog.text


def test_a_full_disk_costs_only_the_copy(
    reader: Reader, file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights do not fit; what safetensors raises then is no OSError."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        model, _ = load_unpacked(file, torch.float32, reader)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert model.config.hidden_size == 16 and "it cannot be kept unpacked" in caplog.text and not folders(cache)


def test_only_smollm2_alone_is_unpacked(tmp_path: Path) -> None:
    assert is_smollm2(EmbedderSource(tmp_path, SMOLLM2_FILE))
    assert not is_smollm2(EmbedderSource(tmp_path, "other.gguf")) and not is_smollm2(EmbedderSource(tmp_path, None))
    (tmp_path / "tokenizer_config.json").touch()
    assert not is_smollm2(EmbedderSource(tmp_path, SMOLLM2_FILE))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_smollm2(dtype: str, cache: Path) -> None:
    pytest.importorskip("gguf")
    config = EmbedderConfig(layer=3, dtype=dtype)  # type: ignore[arg-type]
    texts = ["a red bar", "ein grünes Quadrat", "  x  y", "赤い家", "cafe\u0301", "<|im_start|>user"]
    first = load_embedder(config).encode(texts)
    assert len(folders(cache)) == 1
    again = load_embedder(config).encode(texts)
    assert torch.equal(again.embeds, first.embeds) and torch.equal(again.tokens, first.tokens)
