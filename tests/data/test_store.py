from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from proclip.data import store_folder
from proclip.data.key_table import digests
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key, text_key
from proclip.errors import ProclipError

IDENTITY: dict[str, Any] = {"kind": "test", "layer": 2, "dtype": "bfloat16", "instruction": "", "max_length": 64}
ODD = torch.arange(10) % 2 == 1
KEYS = [caption_key(f"openmoji/{n}", "short") for n in range(10)]


def vectors(n: int = 10, dim: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of 10 rows in shards of 4, 4 and 2."""
    with StoreWriter(tmp_path / "store", IDENTITY, 64, shard_size=4) as writer:
        for n in range(10):
            writer.add(KEYS[n : n + 1], vectors()[n : n + 1], cut=torch.tensor([n % 2 == 1]))
    return tmp_path / "store"


def test_rows_come_back_by_key_in_any_order(path: Path) -> None:
    store = EmbeddingStore.open(path, expect=IDENTITY)
    assert (len(store), store.dim, store.dtype, store.truncated) == (10, 64, "float32", 5)
    assert [shard.rows for shard in store.manifest.shards] == [4, 4, 2]
    assert list(store.keys) == KEYS
    assert KEYS[7] in store
    assert "openmoji/7#long" not in store
    order = [9, 0, 5, 5, 3]
    assert torch.equal(store.rows([KEYS[n] for n in order]), vectors()[order])
    assert store.rows([]).shape == (0, 64)
    cut = store.cut([KEYS[n] for n in order])
    assert cut is not None and cut.tolist() == [True, False, True, True, True]
    store.verify()


def test_a_store_does_not_depend_on_how_rows_were_added_to_a_shard(path: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "other", IDENTITY, 64, shard_size=4) as writer:
        writer.add(KEYS[:4], vectors()[:4], cut=ODD[:4])
        writer.add(KEYS[4:8], vectors()[4:8], cut=ODD[4:8])
        writer.add(KEYS[8:], vectors()[8:], cut=ODD[8:])
    for file in sorted(path.glob("[!.]*")):
        assert (tmp_path / "other" / file.name).read_bytes() == file.read_bytes()


# Largest relative error of a normal vector of width 64, and bytes a value. float16 and bfloat16 round to 11 and 8
# significant bits; int8 to 1/254 of the row's largest value.
@pytest.mark.parametrize(
    ("dtype", "low", "high", "bytes_a_value"),
    [("float32", 0, 0, 4), ("float16", 1e-4, 5e-4, 2), ("bfloat16", 1e-3, 4e-3, 2), ("int8", 3e-3, 1.2e-2, 1)],
)
def test_loss_of_each_number_format(tmp_path: Path, dtype: Any, low: float, high: float, bytes_a_value: int) -> None:
    embeds = vectors(200) * torch.logspace(-3, 3, 200).unsqueeze(1)  # rows of very different size
    keys = [str(n) for n in range(200)]
    with StoreWriter(tmp_path / "s", IDENTITY, 64, dtype=dtype) as writer:
        writer.add(keys, embeds)
    store = EmbeddingStore.open(tmp_path / "s")
    rows = store.rows(keys)
    error = ((rows - embeds).norm(dim=1) / embeds.norm(dim=1)).max()
    assert low <= float(error) <= high
    assert rows.dtype == torch.float32
    with safe_open(tmp_path / "s" / "shard-00000.safetensors", framework="pt") as file:
        stored = file.get_tensor("embeds")
    assert stored.element_size() == bytes_a_value


def test_int8_keeps_a_row_of_zeros(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", IDENTITY, 64, dtype="int8") as writer:
        writer.add(["a"], torch.zeros(1, 64))
    assert torch.equal(EmbeddingStore.open(tmp_path / "s").rows(["a"]), torch.zeros(1, 64))


def test_a_value_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", IDENTITY, 64, dtype="float16", shard_size=1)
    with pytest.raises(ProclipError, match="7e\\+04 is too large for float16: use bfloat16"):
        writer.add(["a"], torch.full((1, 64), 7e4))


def test_int8_is_refused_where_one_dimension_drowns_the_rest(tmp_path: Path) -> None:
    embeds = vectors(20)
    embeds[:, 3] = 5000
    writer = StoreWriter(tmp_path / "s", IDENTITY, 64, dtype="int8", shard_size=20)
    with pytest.raises(ProclipError, match=r"int8 would round by .* use bfloat16"):
        writer.add([str(n) for n in range(20)], embeds)


def test_vectors_stay_on_disk(tmp_path: Path) -> None:
    def private_kilobytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    with StoreWriter(tmp_path / "s", IDENTITY, 4096) as writer:
        writer.add([str(n) for n in range(4000)], torch.ones(4000, 4096))  # 64 MB
    before = private_kilobytes()
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows(["5", "3999"]), torch.ones(2, 4096))
    assert private_kilobytes() - before < 16_000


@pytest.mark.parametrize("change", [{"layer": 7}, {"instruction": "Say: "}, {"pooling": "mean"}])
def test_another_identity_is_refused_with_the_fields_that_differ(path: Path, change: Mapping[str, Any]) -> None:
    ((field, value),) = change.items()
    message = f"{field}: want {value!r}, have {IDENTITY.get(field)!r}$"
    with pytest.raises(ProclipError, match=message):
        EmbeddingStore.open(path, expect=IDENTITY | change)
    with pytest.raises(ProclipError, match=message):
        StoreWriter(path, IDENTITY | change, 64)


def test_another_width_or_number_format_is_refused(path: Path) -> None:
    with pytest.raises(ProclipError, match="stored dim: want 32, have 64; stored dtype: want 'int8', have 'float32'"):
        StoreWriter(path, IDENTITY, 32, dtype="int8")
    StoreWriter(path, IDENTITY, 64).close()  # the refused one did not keep the lock


def test_an_unknown_key_is_named(path: Path) -> None:
    with pytest.raises(ProclipError, match="'nothing#short' is not among the 10 keys"):
        EmbeddingStore.open(path).rows([KEYS[0], "nothing#short"])


def test_resuming_keeps_complete_shards_and_refuses_a_key_twice(path: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in path.glob("shard-*")}
    with StoreWriter(path, IDENTITY, 64, shard_size=4) as writer:
        assert writer.missing(["new", *KEYS]) == [0]
        with pytest.raises(ProclipError, match="'openmoji/3#short' would stand twice"):
            writer.add(["new", KEYS[3]], vectors(2))
        with pytest.raises(ProclipError, match="'new' would stand twice"):
            writer.add(["new", "new"], vectors(2))
        writer.add(["new"], vectors(1, seed=1))
    store = EmbeddingStore.open(path)
    assert torch.equal(store.rows(["new", KEYS[9]]), torch.cat([vectors(1, seed=1), vectors()[9:]]))
    assert all((path / name).stat().st_mtime_ns == time for name, time in before.items())


KILLED = """
import sys, torch
from pathlib import Path
import proclip.data.store as store_module
from proclip.data.store import StoreWriter

folder, identity, moment = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
vectors = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
real = store_module.write_atomically
def write(path, content):
    number = int(path.name[6:11]) if path.name.startswith("shard-") else -1
    if number == 1 and moment == "half a shard":  # what a kill leaves that comes while the file is written
        path.with_name(f".{path.name}.tmp").write_bytes(content[: len(content) // 2])
        wait()
    real(path, content)
    if number == 1 and moment == "before the manifest":
        wait()
def wait():
    print("now", flush=True)
    sys.stdin.read()
store_module.write_atomically = write
with StoreWriter(folder, identity, 64, shard_size=4) as writer:
    for n in range(10):
        if n == 6 and moment == "rows in memory":
            wait()
        writer.add([f"openmoji/{n}#short"], vectors[n : n + 1], cut=torch.tensor([n % 2 == 1]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["rows in memory", "half a shard", "before the manifest"])
def test_a_kill_loses_only_the_shard_that_was_being_made(path: Path, tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder), repr(IDENTITY), moment]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=dict(os.environ), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert list(EmbeddingStore.open(folder, expect=IDENTITY).keys) == KEYS[:4]
    with StoreWriter(folder, IDENTITY, 64, shard_size=4) as writer:  # the dead process's lock is gone with it
        for n in writer.missing(KEYS):
            writer.add(KEYS[n : n + 1], vectors()[n : n + 1], cut=torch.tensor([n % 2 == 1]))
    uninterrupted = {file.name: file.read_bytes() for file in path.glob("[!.]*")}
    assert {file.name: file.read_bytes() for file in folder.glob("[!.]*")} == uninterrupted


def test_an_exception_keeps_the_rows_that_were_added(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "s", IDENTITY, 64) as writer:
        writer.add(KEYS, vectors())
        raise KeyboardInterrupt
    assert len(EmbeddingStore.open(tmp_path / "s")) == 10


def test_two_writers_at_once_are_refused(path: Path) -> None:
    with StoreWriter(path, IDENTITY, 64), pytest.raises(ProclipError, match="another process is writing"):
        StoreWriter(path, IDENTITY, 64, wait_seconds=0.05)


def test_a_truncated_or_missing_shard_is_detected_at_open(path: Path) -> None:
    shard = path / "shard-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    for opening in (lambda: EmbeddingStore.open(path), lambda: StoreWriter(path, IDENTITY, 64)):
        with pytest.raises(ProclipError, match=rf"shard-00001\.safetensors has {len(content) - 1} bytes"):
            opening()
    shard.unlink()
    with pytest.raises(ProclipError, match=r"shard-00001\.safetensors is missing"):
        EmbeddingStore.open(path)


def test_a_shard_of_the_right_size_but_not_its_content_is_detected(path: Path) -> None:
    shard = path / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    store = EmbeddingStore.open(path)
    with pytest.raises(ProclipError, match=r"shard-00001\.safetensors has changed"):
        store.verify()
    shard.write_bytes(b"\xff" * len(content))
    with pytest.raises(ProclipError, match=r"shard-00001\.safetensors is damaged"):
        EmbeddingStore.open(path)
    shutil.copy(path / "shard-00000.safetensors", shard)
    values = json.loads((path / "manifest.json").read_text())
    values["shards"][1] |= {"rows": 3, "bytes": shard.stat().st_size}
    (path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ProclipError, match=r"holds vectors \(4, 64\) float32, its manifest says \(3, 64\)"):
        EmbeddingStore.open(path)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no embedding store at"):
        EmbeddingStore.open(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ProclipError, match=r"it holds 'notes\.txt'"):
        StoreWriter(tmp_path, IDENTITY, 64)
    for content, message in (("{", "not valid JSON"), ("{}", "format and version"), ("[]", "format and version")):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ProclipError, match=message):
            EmbeddingStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "proclip-embeddings", "version": 1, "shards": []}')
    with pytest.raises(ProclipError, match="damaged: 'identity'"):
        EmbeddingStore.open(tmp_path)
    values = {"format": "proclip-embeddings", "version": 1, "dtype": "float32", "shards": []}
    for wrong in ({"identity": [1], "dim": 64}, {"identity": {}, "dim": "64"}):
        (tmp_path / "manifest.json").write_text(json.dumps(values | wrong))
        with pytest.raises(ProclipError, match="damaged: identity is a table and dim a number"):
            EmbeddingStore.open(tmp_path)


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        (torch.ones(2, 32), r"2 keys and vectors \(2, 32\): 64 wide"),
        (torch.ones(3, 64), r"2 keys and vectors \(3, 64\)"),
        (torch.stack([torch.ones(64), torch.full((64,), float("nan"))]), "the vector of 'b' is not finite"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, embeds: Tensor, message: str) -> None:
    with StoreWriter(tmp_path / "s", IDENTITY, 64) as writer, pytest.raises(ProclipError, match=message):
        writer.add(["a", "b"], embeds)


def test_keys() -> None:
    assert caption_key("openmoji/1F600", "name_de") == "openmoji/1F600#name_de"
    assert text_key("a cat") == "sha256:51e467415607798220a3776f6ae1a2a09ddc7e5dcdc955d685477b4cf05ade22"


FIRST_DTYPES = [("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)]


def first_version(folder: Path, dtype: str, stored: torch.dtype) -> None:
    """A store as version 1 wrote it: keys in each shard's metadata, 64 bits of each text's hash."""
    entries = []
    for number, span in enumerate((slice(0, 4), slice(4, 10))):
        tensors = {
            "embeds": vectors()[span].to(stored),
            "text_sha256": torch.from_numpy(digests([f"text of {key}" for key in KEYS[span]])[:, 0].copy()),
            "cut": ODD[span],
        }
        content = save(tensors, metadata={"keys": json.dumps(KEYS[span])})
        name, digest = f"shard-{number:05d}.safetensors", hashlib.sha256(content).hexdigest()
        entry = {"file": name, "rows": len(KEYS[span]), "truncated": 2, "bytes": len(content), "sha256": digest}
        entries.append(entry)
        (folder / name).write_bytes(content)
    manifest = {"format": "proclip-embeddings", "version": 1, "rows": 10, "truncated": 4, "identity": IDENTITY,
                "dim": 64, "dtype": dtype, "shards": entries}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("dtype", "stored"), FIRST_DTYPES)
def test_a_store_of_version_1_is_read_and_gone_on_with(
    tmp_path: Path, dtype: Any, stored: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    first_version(tmp_path, dtype, stored)
    texts = [f"text of {key}" for key in KEYS]
    order = [9, 0, 5]
    for _ in range(2):  # as it was found, then with the index that the first reader left
        store = EmbeddingStore.open(tmp_path, expect=IDENTITY)
        assert torch.equal(store.rows([KEYS[n] for n in order]), vectors()[order].to(stored).float())
        assert list(store.keys) == KEYS
        cut = store.cut(KEYS)
        assert cut is not None and torch.equal(cut, ODD)
        assert torch.equal(store.find(KEYS, texts), store.find(KEYS))
        store.verify()
        with pytest.raises(ProclipError, match="'openmoji/9#short' has changed"):
            store.find(KEYS, [*texts[:9], "another"])
    assert (tmp_path / "index.safetensors").is_file()
    with StoreWriter(tmp_path, IDENTITY, 64, dtype=dtype) as writer:
        assert "was of version 1" in caplog.text
        writer.add(["new"], vectors(1, seed=1))
    store = EmbeddingStore.open(tmp_path)
    assert (store.manifest.version, list(store.keys), len(store)) == (2, [*KEYS, "new"], 11)
    wanted = torch.cat([vectors(1, seed=1), vectors()[3:4]]).to(stored).float()
    assert torch.equal(store.rows(["new", KEYS[3]]), wanted)
    store.verify()


@pytest.mark.parametrize("what", ["missing", "of another state", "cut off"])
def test_an_index_that_is_not_there_or_not_right_is_made_anew(path: Path, what: str) -> None:
    index = path / "index.safetensors"
    right = index.read_bytes()
    if what == "missing":
        index.unlink()
    elif what == "cut off":
        index.write_bytes(right[: len(right) // 2])
    else:
        with StoreWriter(path, IDENTITY, 64) as writer:
            writer.add(["new"], vectors(1))
        right, _ = index.read_bytes(), index.write_bytes(right)
    store = EmbeddingStore.open(path)
    assert torch.equal(store.rows(KEYS), vectors())
    assert index.read_bytes() == right


def test_a_reader_leaves_an_index_to_the_one_who_writes(path: Path) -> None:
    with StoreWriter(path, IDENTITY, 64):
        (path / "index.safetensors").unlink()
        assert torch.equal(EmbeddingStore.open(path).rows(KEYS), vectors())
        assert not (path / "index.safetensors").exists()


def test_a_key_that_stands_twice_is_noticed(path: Path) -> None:
    table = path / "keys-00001.safetensors"
    shutil.copy(path / "keys-00000.safetensors", table)
    (path / "index.safetensors").unlink()
    values = json.loads((path / "manifest.json").read_text())
    values["tables"][1] = values["tables"][0] | {"file": table.name}
    (path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ProclipError, match="'openmoji/0#short' stands twice"):
        EmbeddingStore.open(path)


def test_rows_are_looked_up_once_and_read_often(path: Path) -> None:
    store = EmbeddingStore.open(path)
    rows = store.find([KEYS[n] for n in (9, 0, 5, 5, 3)])
    assert rows.tolist() == [9, 0, 5, 5, 3]
    assert torch.equal(store.at(rows), vectors()[rows])
    assert store.holds([KEYS[2], "nothing"]).tolist() == [True, False]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_reading_is_that_of_torch(tmp_path: Path, dtype: Any) -> None:
    """Blocks, shards and scales against the library's own reader and torch's arithmetic."""
    count, keys = 700, [str(n) for n in range(700)]
    embeds = vectors(count, 1000)
    with StoreWriter(tmp_path / "s", IDENTITY, 1000, dtype=dtype, shard_size=300) as writer:
        for start in range(0, count, 100):
            writer.add(keys[start : start + 100], embeds[start : start + 100])
    parts = []
    for shard in sorted((tmp_path / "s").glob("shard-*")):
        tensors = load_file(shard)
        rows = tensors["embeds"].float()
        parts.append(rows * tensors["scale"].unsqueeze(1) if dtype == "int8" else rows)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).repeat(2)
    store = EmbeddingStore.open(tmp_path / "s")
    found = store.rows([keys[n] for n in order])
    assert torch.equal(found, torch.cat(parts)[order])
    stored = store.at(store.find([keys[n] for n in order]), as_stored=True)
    assert stored.dtype == {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, torch.float32)
    assert torch.equal(stored.float(), found)


def test_opening_and_reading_is_fast(tmp_path: Path) -> None:
    keys = [str(n) for n in range(50_000)]
    with StoreWriter(tmp_path / "s", IDENTITY, 8) as writer:
        writer.add(keys, torch.zeros(50_000, 8))
    start = time.perf_counter()
    store = EmbeddingStore.open(tmp_path / "s")
    for n in range(0, 50_000, 512):
        store.rows(keys[n : n + 512])
    assert time.perf_counter() - start < 5


def test_who_may_wait_long_says_so_and_gets_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held = store_folder.lock(tmp_path)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(store_folder, "LOCK_SECONDS", 0.05)
        with pytest.raises(ProclipError, match="another process is writing the embeddings"):
            store_folder.lock(tmp_path, 0.05)
        assert not caplog.messages
        waiting = pool.submit(store_folder.lock, tmp_path, 60.0)
        while not caplog.messages:
            time.sleep(0.01)
        assert not waiting.done()
        held.release()
        waiting.result(60).release()
    assert len(caplog.messages) == 1 and "it is waited for" in caplog.text
