"""The benchmarks run, their timing is right, and docs/performance.md says what their result files say."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import proclip
from proclip.config import AdapterConfig
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower

ROOT = Path(proclip.__file__).parents[2]
FOLDER = ROOT / "benchmarks"
QUICK = ("limits", "startup", "stage1", "stage2", "recall")
SLOW = (
    "memory", "growth", "evaluation_speed", "tower_speed", "gpu", "decode", "data_scale", "store", "embed",
    "cached_gradients", "losses", "teacher_price", "optimizer", "checkpoint", "export", "serve",
)  # fmt: skip


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a script of benchmarks/ as it is when it is run; afterwards none of them is there."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        if isinstance(module, ModuleType) and Path(getattr(module, "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def here(make: Callable[..., Callable[[], object]], *arguments: object) -> dict[str, float]:
    """Peak memory's place taken by a plain call: a process costs seconds."""
    make(*arguments)()
    return {"before": 1.0, "peak": 2.0, "added": 1.0, "anonymous": 1.0, "seconds": 1.0}


@pytest.mark.filterwarnings("ignore:.*expected of a model that reads English")
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_small_run_writes_its_figures(
    name: str, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, out = load(name), tmp_path / "result.json"
    if name != "memory":
        monkeypatch.setattr(script, "peak_memory", here, raising=False)
    monkeypatch.setattr(sys, "argv", [str(FOLDER / f"{name}.py"), "--small", "--threads", "1", "--out", str(out)])
    script.main()
    result = json.loads(out.read_text())
    assert result["benchmark"] == name and result["small"] and result["question"]
    assert result["command"] == f"python benchmarks/{name}.py --small --threads 1 --out result.json"
    assert result["machine"]["torch_threads"] == 1 and result["versions"]["torch"]
    assert result["figures"]
    for row in result["figures"]:
        assert row["range"][0] <= row["median"] <= row["range"][1]


def test_a_small_run_leaves_the_results_alone(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = load("measure")
    monkeypatch.setattr(sys, "argv", ["benchmarks/limits.py", "--small", "--threads", "1"])
    options = measure.command_line("What?", repeats=9)
    assert options.out is None and options.repeats == 2
    measure.write(options, "What?", [measure.figure("speed", [1.0, 3.0, 2.0], "x", limit=("peak", 4.0, 0.5))], {})
    assert capsys.readouterr().out == "speed: 2 x (1 to 3, n = 3); 50% of peak\n"
    monkeypatch.setattr(sys, "argv", ["benchmarks/limits.py", "--threads", "1"])
    options = measure.command_line("What?", repeats=9)
    assert options.out == FOLDER / "results" / "limits.json" and options.repeats == 9


def test_in_turn(load: Callable[[str], Any]) -> None:
    measure, calls = load("measure"), []

    def way(name: str, seconds: float) -> Callable[[], None]:
        return lambda: (calls.append(name), time.sleep(seconds))[1]

    turns = measure.in_turn({"slow": way("slow", 0.03), "quick": way("quick", 0.01)}, repeats=4)
    assert calls[:2] in (["slow", "quick"], ["quick", "slow"]) and calls[2:4] == calls[6:8] != calls[4:6] == calls[8:]
    assert all(len(turns.seconds[name]) == 4 for name in ("slow", "quick"))
    ratios = turns.ratio("slow", "quick")
    assert ratios == [a / b for a, b in zip(turns.seconds["slow"], turns.seconds["quick"], strict=True)]
    assert sorted(ratios)[2] > 1
    assert turns.rate("quick", 10) == [10 / s for s in turns.seconds["quick"]]
    assert max(turns.core_seconds["slow"]) < 0.03  # asleep


def allocate(mib: int) -> Callable[[], object]:
    """Memory that lasts until the call returns, and before it twice as much that does not count."""
    bytearray(2 * mib * 2**20)
    return lambda: len(bytearray(mib * 2**20).replace(b"\0", b"\1"))


@pytest.mark.slow
def test_peak_memory_is_what_the_call_adds(load: Callable[[str], Any]) -> None:
    found = load("measure").peak_memory(allocate, 64)
    assert 125 < found["added"] < 160
    assert found["peak"] == pytest.approx(found["before"] + found["added"], abs=0.2)


def test_the_two_stage_2_loops_compute_the_same(load: Callable[[str], Any]) -> None:
    stage2, training = load("stage2"), load("training")
    clip, batch = training.random_clip("tiny"), training.random_tune_batch(4, 32, 32)
    adapter = stage2.PlainAdapter(32, clip.config.projection_dim)
    own = stage2.ours(clip, adapter, batch, "none")
    plain = stage2.PlainLoop(clip, adapter, batch)
    for _ in range(3):
        assert own.run()["loss"] == pytest.approx(plain.step(), rel=1e-5)
    teacher = own.stage.teacher
    for name, parameter in plain.teacher[0].named_parameters():
        torch.testing.assert_close(teacher.vision_model.get_parameter(name), parameter)


def test_each_row_of_the_teachers_price_runs_its_own_teacher(load: Callable[[str], Any]) -> None:
    script, passes = load("teacher_price"), []

    def count(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, ClipImageTower) and not module.training:
            passes.append(module)

    turns = script.turns_of("tiny", 32, 8, 32, "none", "cpu")
    found, hook = {}, torch.nn.modules.module.register_module_forward_hook(count)
    try:
        for name, two_steps in turns.items():
            passes.clear()
            two_steps()
            found[name] = len(passes)
    finally:
        hook.remove()
    assert found == {
        script.NONE: 0, "EMA (the paper)": 2, "EMA, stride 2": 2, "EMA, stride 4": 2, script.ALTERNATING: 1, "cached": 0
    }  # fmt: skip


def test_the_page_is_filled_in_from_the_result_files(load: Callable[[str], Any], tmp_path: Path) -> None:
    performance = load("performance")
    page = (ROOT / "docs" / "performance.md").read_text()
    assert performance.filled(page) == page, "run  python benchmarks/performance.py"
    places = [name for _, name, _ in performance.PLACE.findall(page)]
    in_makefile = re.search(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert in_makefile and set(places) == {*in_makefile[1].split(), "gpu", *performance.COMMANDS}
    scripts = [performance.COMMANDS.get(name, f"{name}.py").split()[0] for name in places]
    assert all((FOLDER / script).is_file() for script in scripts)
    for name in places:
        path = FOLDER / "results" / f"{name}.json"
        assert not path.is_file() or not json.loads(path.read_text()).get("small"), f"{path} is of a small run"

    speed = {"what": "ours", "unit": "x", "median": 1.234, "range": [1.1, 1.3], "n": 5, "aim": "at least 1"}
    rate = {"what": "rate", "unit": "images/s", "median": 1234.5, "range": [1234.5, 1234.5], "n": 1, "aim": "",
            "limit": {"what": "images/s at most", "value": 2000.0, "share": 0.617}}  # fmt: skip
    machine = {"processor": "CPU", "cores": 2, "instructions": "AVX2", "torch_threads": 1, "load_average": 0.4}
    result = {"figures": [speed, rate], "machine": machine, "command": "python benchmarks/x.py", "date": "2026-11-25",
              "commit": "abc", "versions": {"torch": "2.13.0"}}  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(result))
    text = performance.filled(
        "a\n<!-- figures: x -->\nold\n<!-- end -->\nb\n<!-- figures: y -->\n<!-- end -->\n", tmp_path
    )
    assert "| ours | 1.23 x | 1.1 to 1.3 | at least 1 |  |  |" in text
    assert "| rate | 1,234 images/s |  |  | 2,000 images/s at most | 62% |" in text
    assert "`python benchmarks/x.py`, CPU, 2 cores, AVX2, torch 2.13.0 on 1 threads, 2026-11-25" in text
    assert "old" not in text and "Not measured yet: `python benchmarks/y.py`." in text
    assert performance.filled(text, tmp_path) == text


def test_the_tables_of_scaling_are_made_from_their_formulas(load: Callable[[str], Any]) -> None:
    scaling, training = load("scaling"), load("training")
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert scaling.filled(page) == page, "run  python benchmarks/scaling.py"
    assert {name for _, name, _ in scaling.PLACE.findall(page)} == set(scaling.TABLES)
    for name, tower in scaling.TOWERS.items():
        sizes = training.CLIPS[name]
        with torch.device("meta"):
            real = ClipImageTower.from_config(sizes["vision_config"], sizes["projection_dim"])
            real.vision_model.set_attn_implementation("eager")  # whose products are counted on every device
            pixels = torch.empty(2, 3, tower.side, tower.side)
            adapter = Adapter(1024, tower.embed_dim, AdapterConfig())
        assert tower.numbers == sum(p.numel() for p in real.parameters())
        assert training.operations(lambda real=real, pixels=pixels: real(pixels)) == 2 * tower.operations
        assert scaling.adapter_numbers(1024, tower.embed_dim) == sum(p.numel() for p in adapter.parameters())
    assert scaling.gathered_bytes(512, 768, 8) == 7 * 512 * (3 * 768 * 4 + 2 * 8) + 7 * 512 * 2 * 768 * 4
    assert scaling.reduced_bytes(1000, 2) == 4000 and scaling.reduced_bytes(1000, 1) == 0
