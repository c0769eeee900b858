"""What `proclip convert` refuses, and that its one line names the file, the keys and what would be right."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from official_code import CustomClip, OpenAiVit, TextProj, tiny
from safetensors.torch import save_file
from torch import Tensor

from proclip.cli import main
from proclip.convert import Hints, plan
from proclip.convert.reading import read_checkpoint
from proclip.errors import ProclipError

State = dict[str, Tensor]
BLOCK = "text.text_adaptor.1."
RES = "visual.transformer.resblocks."


def without(state: State, start: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(start)}


def with_nan(state: State) -> State:
    bad = state["visual.conv1.weight"].clone()
    bad[0, 0, 0, 0] = float("nan")
    return state | {"visual.conv1.weight": bad}


def key(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: state | {name: torch.zeros(shape)}


CHANGES: dict[str, tuple[Callable[[State], Any], str]] = {
    "adapter block": (lambda s: without(s, BLOCK), rf"6 missing: {BLOCK}fn\.0\.bias, .* and 1 more"),
    "last adapter block": (lambda s: without(s, "text.text_adaptor.2."), r"6 missing: text\.text_adaptor\.2\.fn"),
    "image block": (lambda s: without(s, RES + "0.attn"), rf"4 missing: {RES}0\.attn\.in_proj_bias"),
    "one key": (lambda s: without(s, "visual.ln_post.bias"), r"1 missing: visual\.ln_post\.bias"),
    "projection": (lambda s: without(s, "visual.proj"), r"visual\.proj is missing"),
    "temperature": (lambda s: without(s, "logit_scale"), "1 missing: logit_scale"),
    "extra": (key("visual.registers", 4, 128), r"1 not known: visual\.registers .*--ignore"),
    "bias": (key("logit_bias"), r"1 not known: logit_bias \(SigLIP's bias, .*--ignore logit_bias"),
    "text tower": (key("text.transformer.resblocks.0.ln_1.weight", 8), "CLIP's own text tower"),
    "llm": (key("text.text.model.layers.0.mlp.weight", 8), r"the LLM itself: leave it out with --ignore text\.text\."),
    "lora": (key(f"{RES}0.attn.lora_A.weight", 8), "LoRA weights: merge them into the model first"),
    "no adapter": (lambda s: without(s, "text."), "has no adapter"),
    "two adapters": (key("text.text_proj.text_adaptor.0.weight", 8), "has several adapters"),
    "no tower": (lambda s: without(s, "visual."), "its image tower is none that is known"),
    "resnet": (key("visual.layer1.0.conv1.weight", 4, 4, 1, 1), "its image tower is a ResNet"),
    "wrong shape": (key("visual.ln_pre.weight", 64), r"visual\.ln_pre\.weight has shape \(64,\), wanted \(128,\)"),
    "expansion differs": (key(f"{BLOCK}fn.0.weight", 48, 16), r"has shape \(48, 16\), wanted \(32, 16\)"),
    "half expansion": (key("text.text_adaptor.0.fn.0.weight", 24, 16), "24 x 16; wanted a multiple"),
    "no matrix": (key("text.text_adaptor.4.weight", 12), r"has shape \(12,\), wanted 2 dimensions"),
    "no square": (key("visual.positional_embedding", 7, 128), "6 patch positions, which are no square grid"),
    "grey images": (key("visual.conv1.weight", 128, 1, 8, 8), "1 channels and patches 8 x 8"),
    "temperature vector": (key("logit_scale", 1), r"logit_scale has shape \(1,\), wanted \(\)"),
    "cold": (lambda s: s | {"logit_scale": torch.tensor(7.0)}, "logit_scale is 7, wanted 0 to ln 100"),
    "nan": (with_nan, r"NaN or infinity in 1 tensors: visual\.conv1\.weight"),
    "integers": (lambda s: s | {"visual.ln_pre.bias": torch.zeros(128, dtype=torch.int8)}, "holds torch.int8"),
    "no tensor": (lambda s: s | {"visual.note": "trained on tuesday"}, r"other objects are under visual\.note"),
    "list": (lambda s: list(s.values()), "holds list, not a state dict"),
    "empty": (lambda s: {"state_dict": {}}, "holds dict, not a state dict"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_refused(change: str, tmp_path: Path, tiny_llm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alter, message = CHANGES[change]
    path = tmp_path / "changed.pt"
    torch.save(alter(dict(tiny("openai").state_dict())), path)
    llm = ["--set", f"embedder.model={tiny_llm_path}"]
    assert main(["convert", str(path), str(tmp_path / "out"), *llm]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    line = error.splitlines()[-1]
    assert line.startswith("proclip: error: ") and str(path) in line and len(line) < 600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["changed.pt"]  # nothing is left behind


def test_keys_are_left_out_where_the_user_says_so(tmp_path: Path) -> None:
    state = dict(tiny("openai").state_dict()) | {
        "text.text.layer.weight": torch.zeros(3),
        "logit_bias": torch.zeros(()),
    }
    torch.save(state, tmp_path / "more.pt")
    made = plan(read_checkpoint(str(tmp_path / "more.pt")), Hints(ignore=("text.text.", "logit_bias")))
    assert made.ignored == ["text.text.layer.weight", "logit_bias"]
    assert dict(made.facts())["left out"] == "text.text.layer.weight, logit_bias"


def test_dims_must_agree(tmp_path: Path, tiny_llm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(CustomClip(OpenAiVit(64, 1, 1, 8, 16, 9), TextProj(16, 12, 1, 2)).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ProclipError, match="the adapter gives vectors of width 12, the image tower of 9"):
        plan(read_checkpoint(str(tmp_path / "a.pt")))
    torch.save(CustomClip(OpenAiVit(64, 1, 1, 8, 16, 12), TextProj(20, 12, 1, 2)).state_dict(), tmp_path / "b.pt")
    llm = ["--set", f"embedder.model={tiny_llm_path}"]
    assert main(["convert", str(tmp_path / "b.pt"), str(tmp_path / "out"), *llm]) == 2
    assert "gives vectors of width 16, the adapter takes 20" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "b.pt"), str(tmp_path), *llm]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "b.pt"), str(tmp_path / "out")]) == 2
    assert "which LLM was the adapter trained with" in capsys.readouterr().err


class Runs:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_executed(tmp_path: Path) -> None:
    state = dict(tiny("openai").state_dict())
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1e-5)}, tmp_path / "args.pt")
    with pytest.raises(ProclipError, match=r"rebuild: argparse\.Namespace; .*save its state dict alone"):
        read_checkpoint(str(tmp_path / "args.pt"))
    torch.save({"state_dict": state, "evil": Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ProclipError, match="only running code"):
        read_checkpoint(str(tmp_path / "evil.pt"))
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ProclipError, match=r"raw\.pt"):
        read_checkpoint(str(tmp_path / "raw.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save(tiny("openai").state_dict(), path)
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.pt").write_bytes(content[:size])
        with pytest.raises(ProclipError, match=r"cut\.pt cannot be read"):
            read_checkpoint(str(tmp_path / "cut.pt"))
    torch.save(tiny("openai").state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ProclipError, match=r"whole\.pt cannot be read"):
        read_checkpoint(str(path))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ProclipError, match=r"whole\.pt cannot be read"):
        read_checkpoint(str(path))
    with pytest.raises(ProclipError, match="there is no checkpoint"):
        read_checkpoint(str(tmp_path / "nowhere.pt"))


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"not one \.pt file \(there: none\)"):
        read_checkpoint(str(tmp_path))
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(ProclipError, match=r"there: a\.pt, b\.pt"):
        read_checkpoint(str(tmp_path))
    (tmp_path / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(ProclipError, match="zero_to_fp32"):
        read_checkpoint(str(tmp_path))
    (tmp_path / "latest").write_text("epoch_9")
    with pytest.raises(ProclipError, match="'epoch_9', which is not there"):
        read_checkpoint(str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ProclipError, match=r"config\.json is missing"):
        read_checkpoint(str(tmp_path))
    for kind, message in (("proclip", "is a proclip model already"), ("siglip", "model_type is 'siglip'")):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(ProclipError, match=message):
            read_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    with pytest.raises(ProclipError, match=r"model\.safetensors cannot be read"):
        read_checkpoint(str(tmp_path))


@pytest.mark.usefixtures("tiny_timm")
def test_towers_of_timm(tmp_path: Path, tiny_llm_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = ["--set", f"embedder.model={tiny_llm_path}"]

    def refused(state: State, *options: str) -> str:
        torch.save(state, tmp_path / "c.pt")
        assert main(["convert", str(tmp_path / "c.pt"), str(tmp_path / "out"), *llm, *options]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    eva = dict(tiny("eva").state_dict())
    turned = eva | {"visual.rope.freqs_cos": eva["visual.rope.freqs_cos"].flip(0)}
    assert "visual.rope.freqs_cos is not the rotary table of heads of 12" in refused(turned)
    assert "1 missing: visual.blocks.1.mlp.w3.bias" in refused(without(eva, "visual.blocks.1.mlp.w3.bias"))
    assert "visual.norm.weight has shape (9,), wanted (24,)" in refused(eva | {"visual.norm.weight": torch.ones(9)})
    assert "0 of timm's models" in refused(without(eva, "visual.blocks.2."))
    assert "has no such model" in refused(eva, "--timm-model", "eva99")
    assert "this tower's model says them" in refused(eva, "--heads", "2")
    siglip = dict(tiny("siglip").state_dict())
    assert "missing: visual.trunk.attn_pool.kv.bias" in refused(without(siglip, "visual.trunk.attn_pool.kv.bias"))
    other = ["--timm-model", "eva02_tiny_patch4_clip_16"]
    assert "0 of timm's models" in refused(siglip, *other)
    assert "is not one of timm's" in refused(dict(tiny("openai").state_dict()), *other)
