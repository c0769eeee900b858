"""The command line under torchrun: one model, one voice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from proclip.cli import main
from proclip.data.dataset import ImageCaptions

RECIPE = """
name = "tiny"
[data]
dataset = "{data}"
[pretrain]
split = "pretrain"
epochs = 4
batch_size = {batch}
image_size = 16
patch_size = 8
image_width = 64
image_layers = 1
text_width = 64
text_layers = 1
vocab_size = 600
embed_dim = 16
optim = {{lr = 1e-3, parallel = "{how}"}}
[log]
every_steps = 1
"""


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, "-m", "proclip.cli", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def recipe(folder: Path, data: Path, batch: int, how: str = "ddp") -> str:
    path = folder / f"{how}-{batch}.toml"
    path.write_text(RECIPE.format(data=data, batch=batch, how=how))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_train_one_model(tmp_path: Path, tiny_world: Path, how: str) -> None:
    assert main(["train", recipe(tmp_path, tiny_world, 8), "--out", str(tmp_path / "one")]) == 0
    done = torchrun(2, "train", recipe(tmp_path, tiny_world, 4, how), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("model: ") == 1 and done.stdout.count("pretrain 4/4") == 1
    assert "Warning" not in done.stderr
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    again = torchrun(2, "train", recipe(tmp_path, tiny_world, 4, how), "--out", str(tmp_path / "two"))
    assert again.returncode == 0 and again.stderr.count("finished already") == 1


@pytest.mark.slow
def test_broken_pictures_of_all_processes_are_counted(tmp_path: Path, tiny_world: Path) -> None:
    world, run = Path(shutil.copytree(tiny_world, tmp_path / "world")), tmp_path / "run"
    pictures = [one.picture.path for one in ImageCaptions(world).select("pretrain")]
    for path in filter(None, pictures[:3]):
        path.write_bytes(path.read_bytes()[:60])
    done = torchrun(2, "train", recipe(tmp_path, world, 4), "--out", str(run), "--set", "data.max_broken_share=0.9")
    assert done.returncode == 0, done.stderr
    listed = sorted(run.glob("broken_images*"))
    assert [path.name for path in listed] == ["broken_images.rank0.jsonl", "broken_images.rank1.jsonl"]
    assert f"broken images, in whose place others were taken: 3; {listed[0]}, {listed[1]}" in done.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row.get("broken_images", 0) for row in rows) == 3


@pytest.mark.slow
def test_an_error_of_all_processes_is_one_line(tmp_path: Path) -> None:
    done = torchrun(2, "train", recipe(tmp_path, tmp_path / "nothing", 4), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert done.stderr.count("proclip: error:") == 1 and "nothing" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("raise ProclipError('the disk of the second')", "the disk of the second"),
        ("raise Preempted('')", "another process of this job was stopped or killed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "another process of this job was stopped or killed"),
    ],
)
def test_the_end_of_one_process_ends_the_job_with_one_line(tmp_path: Path, end: str, said: str) -> None:
    """The others wait for it at a gather, and speak of that only where it cannot."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from proclip.distributed import gather, launched\n"
        "from proclip.errors import Preempted, ProclipError\n"
        "try:\n"
        "    with launched():\n"
        "        if os.environ['RANK'] == '1':\n"
        f"            {end}\n"
        "        gather(torch.ones(2, 2))\n"
        "except ProclipError as error:\n"
        "    print('proclip: error:', error, file=sys.stderr)\n"
        "    sys.exit(2)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "Traceback" in line or "proclip: error" in line]
    assert ours[0].startswith(f"proclip: error: {said}")
    assert not any("proclip: error" in line for line in ours[1:])  # torchrun's own report follows
    assert "RuntimeError" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_align_on_two_processes(
    tmp_path: Path, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, how: str
) -> None:
    """Both stages, evaluated within and after each, from pictures and captions to a model."""
    settings = [
        "distill.epochs=2", "tune.epochs=2", "distill.batch_size=4", "tune.batch_size=4", "tune.teacher=cached",
        "adapter.num_blocks=1", f"distill.optim.parallel={how}", f"tune.optim.parallel={how}", "embedder.layer=1",
        "log.every_steps=1", f'evaluate.folders=["{tiny_world}"]', "evaluate.split=test", 'evaluate.tasks=["short"]',
        f"evaluate.cache={tmp_path / 'cache'}", "evaluate.every_epochs=1",
    ]  # fmt: skip
    chosen = [word for setting in settings for word in ("--set", setting)]
    words = ["align", "--clip", str(tiny_clip_path), "--embedder", str(tiny_llm_path), "--data", str(tiny_world)]
    done = torchrun(2, *words, "--captions", "short", "--out", str(tmp_path / "run"), *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("model: ") == 1 and done.stdout.count("tune 2/2") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "evaluation" / "tune-forgetting.json").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines if any(key.startswith("eval/") for key in line)} == {1, 2}
