"""Every official form to a ProCLIP folder: the same outputs as the official arithmetic; the layout; the way back."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from official_code import LLM_DIM, CustomClip, EvaVit, OpenAiVit, SiglipVit, TextProj, official_model, tiny
from safetensors.torch import load_file, save_file
from tiny_open_clip import save_tiny_open_clip
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from proclip.cli import main
from proclip.config import AdapterConfig, EmbedderConfig
from proclip.convert import Hints, plan, write_llm2clip
from proclip.convert.embedders import PRESETS, choose_embedder, embedder_dim
from proclip.convert.reading import Checkpoint, read_checkpoint
from proclip.convert.rules import adapter_rules
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.clip_pretraining import train_tokenizer
from proclip.models.proclip import ProCLIP
from proclip.models.towers import build_image_tower
from proclip.runs.inspect import describe

Convert = Callable[..., ProCLIP]
KINDS = ("openai", "eva", "eva-bare", "siglip", "siglip-online")


def need(kind: str, request: pytest.FixtureRequest) -> None:
    """open_clip and timm, for the kinds that are built with them."""
    if kind not in ("openai", "gelu"):
        request.getfixturevalue("tiny_timm")


def same_outputs(model: ProCLIP, official: CustomClip, atol: float = 1e-5) -> None:
    """Image and text features of random input, and the temperature."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(5, 3, 16, 16, generator=generator)
    llm_embeds = 7 * torch.randn(6, LLM_DIM, generator=generator)
    with torch.inference_mode():
        image_features, text_features = official.visual(pixels), official.text(llm_embeds)
        assert min(torch.pdist(image_features).min(), torch.pdist(text_features).min()) > 0.01  # else it says little
        torch.testing.assert_close(model.image_tower(pixels), image_features, atol=atol, rtol=1e-5)
        torch.testing.assert_close(model.adapter(llm_embeds), text_features, atol=atol, rtol=1e-5)
    assert float(model.logit_scale.detach()) == pytest.approx(float(official.logit_scale.detach()), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_official_code(
    kind: str, convert: Convert, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need(kind, request)
    official = tiny(kind)
    torch.save(official.state_dict(), tmp_path / "bare.pt")
    model = convert(tmp_path / "bare.pt")
    same_outputs(model, official)
    assert model.image_tower.family == ("clip" if kind == "openai" else "open_clip")
    assert model.adapter.config.input_norm == ("none" if kind == "siglip-online" else "l2")
    assert (model.adapter.config.num_blocks, model.adapter.config.expansion) == (3, 2)
    siglip = kind.startswith("siglip")
    preprocess = model.preprocess
    assert (preprocess.size, preprocess.resize, preprocess.crop_offset) == (16, "squash" if siglip else "crop", "round")
    assert preprocess.mean[0] == (0.5 if siglip else 0.48145466)
    assert model.encode_text("a red bar").shape == (model.adapter.embed_dim,)  # the LLM is loaded and fits


def wrapped(state: dict[str, Tensor], how: str, folder: Path) -> Path:
    """A state dict as the official code stores it."""
    folder.mkdir()
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.98)}]}
    moved = {f"module.{name}": tensor for name, tensor in state.items()}
    if how in ("deepspeed file", "deepspeed folder", "deepspeed latest"):
        inside = folder / "epoch_2"
        inside.mkdir()
        shapes = {name: tensor.shape for name, tensor in state.items()}
        content = {
            "module": state,
            "optimizer": None,
            "param_shapes": [shapes],
            "ds_version": "0.14",
            "dp_world_size": 8,
        }
        torch.save(content, inside / "mp_rank_00_model_states.pt")
        (inside / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"not needed")
        (folder / "latest").write_text("epoch_2")
        return {"file": inside / "mp_rank_00_model_states.pt", "folder": inside, "latest": folder}[how.split()[1]]
    content = {
        "training": {
            "epoch": 4, "name": "run", "state_dict": moved, "optimizer": optimizer,
            "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        },
        "model": {"model": state},
        "module prefix": moved,
        "half": {name: tensor.half() for name, tensor in state.items()},
        "folder": state,
    }[how]  # fmt: skip
    torch.save(content, folder / "checkpoint.pt")
    return folder if how == "folder" else folder / "checkpoint.pt"


@pytest.mark.parametrize(
    "how",
    ["training", "model", "module prefix", "deepspeed file", "deepspeed folder", "deepspeed latest", "half", "folder"],
)
def test_every_wrapper(how: str, convert: Convert, tmp_path: Path) -> None:
    official = tiny("openai")
    if how == "half":
        official = official.half().float()
    model = convert(wrapped(official.state_dict(), how, tmp_path / "source"))
    same_outputs(model, official)
    if how == "half":  # the folder keeps the checkpoint's precision
        weights = load_file(next(tmp_path.glob("converted-*")) / "model.safetensors")
        assert weights["adapter.project.weight"].dtype == torch.float16


def hub_model(official: CustomClip, folder: Path, **vision: Any) -> CLIPVisionModelWithProjection:
    """A folder as LLM2CLIP-Openai-*: transformers' vision tower in OpenAI's sizes, the official adapter."""
    config = CLIPVisionConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=16, patch_size=8,
        projection_dim=12, hidden_act="quick_gelu", **vision,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        reference = CLIPVisionModelWithProjection(config).eval()
        for parameter in reference.parameters():
            nn.init.normal_(parameter, 0.0, 0.2)
    folder.mkdir()
    state = dict(reference.state_dict())
    adapter = official.text.text_adaptor.state_dict()
    state |= {f"text_adapter.adaptor.{name}": tensor for name, tensor in adapter.items()}
    state |= {"logit_scale": official.logit_scale.detach().clone()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80}
    values = {
        "architectures": ["LLM2CLIPModel"], "model_type": "clip", "projection_dim": 12,
        "auto_map": {"AutoConfig": "configuration_clip.CLIPConfig", "AutoModel": "modeling_clip.LLM2CLIPModel"},
        "vision_config": said | {"image_size": 16, "patch_size": 8, "layer_norm_eps": config.layer_norm_eps},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "modeling_clip.py").write_text("raise SystemExit('this must never run')")
    return reference


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_hub_format(eps: float, convert: Convert, tmp_path: Path) -> None:
    official = tiny("openai")
    reference = hub_model(official, tmp_path / "hub", layer_norm_eps=eps)
    assert {name.split(".")[0] for name in reference.state_dict()} == {"vision_model", "visual_projection"}
    model = convert(tmp_path / "hub")
    official.visual = nn.Module()
    official.visual.forward = lambda pixels: reference(pixel_values=pixels).image_embeds  # type: ignore[method-assign]
    same_outputs(model, official)
    assert model.preprocess.crop_offset == "floor"  # transformers' processor
    assert model.image_tower.config["num_attention_heads"] == 3  # 48 / 16: said by the config, not by shapes
    config = (tmp_path / "hub" / "config.json").read_text()
    for have, said, message in (
        ('"hidden_size": 48', '"hidden_size": 64', r"vision_config\.hidden_size is 64, its weights 48"),
        ('"image_size": 16', '"image_size": 224', "image size 224: .* is a grid of 2 x 2 patches of 8, so 16 to 23"),
    ):
        (tmp_path / "hub" / "config.json").write_text(config.replace(have, said))
        with pytest.raises(ProclipError, match=message):
            plan(read_checkpoint(str(tmp_path / "hub")))
    for field, value, message in (
        ("image_size", "16", r"image_size is '16', a whole number above 0 is wanted"),
        ("num_attention_heads", 3.0, r"num_attention_heads is 3\.0, a whole number"),
        ("patch_size", True, r"patch_size is True, a whole number"),
        ("layer_norm_eps", [1e-5], r"layer_norm_eps is \[1e-05\], a number above 0"),
        ("hidden_act", "foo", r"hidden_act is 'foo', none of transformers' activations"),
        ("hidden_act", {}, r"hidden_act is \{\}, none of"),
        (None, "x", " is 'x', an object is wanted"),
        (None, [], r" is \[\], an object is wanted"),
    ):
        values = json.loads(config)
        values["vision_config"] = value if field is None else values["vision_config"] | {field: value}
        (tmp_path / "hub" / "config.json").write_text(json.dumps(values))
        with pytest.raises(ProclipError, match=rf"hub/config\.json: vision_config.*{message}"):
            plan(read_checkpoint(str(tmp_path / "hub")))
    (tmp_path / "hub" / "config.json").write_text(config.replace('"layer_norm_eps": 1e-05', '"layer_norm_eps": null'))
    assert plan(read_checkpoint(str(tmp_path / "hub"))).tower.heads == 3


def test_what_shapes_cannot_say(convert: Convert, tmp_path: Path) -> None:
    official = tiny("gelu")
    torch.save(official.state_dict(), tmp_path / "gelu.pt")
    model = convert(tmp_path / "gelu.pt", "--activation", "gelu", "--input-norm", "l2")
    same_outputs(model, official)
    assert (model.adapter.config.num_blocks, model.adapter.config.expansion) == (1, 8)
    checkpoint = read_checkpoint(str(tmp_path / "gelu.pt"))
    assert plan(checkpoint, Hints(heads=4)).tower.heads == 4
    assert plan(checkpoint, Hints(resolution=23)).tower.preprocess.size == 23  # the last 7 pixels are no whole patch
    with pytest.raises(ProclipError, match="so 16 to 23 pixels"):
        plan(checkpoint, Hints(resolution=24))
    for heads in (3, 0, -1):
        with pytest.raises(ProclipError, match="give --heads"):
            plan(checkpoint, Hints(heads=heads))


def on_meta(visual: Callable[[], nn.Module], blocks: int, expansion: int, out: int, llm: int = 4096) -> Checkpoint:
    """A checkpoint of full size without its weights."""
    with torch.device("meta"):
        model = CustomClip(visual(), TextProj(llm, out, blocks, expansion))
    return Checkpoint(Path("released.pt"), dict(model.state_dict()), None, "meta")


def test_sizes_of_the_released_openai_models() -> None:
    sizes = {336: (1024, 24, 16, 14, 578_587_905), 224: (768, 12, 12, 16, 360_552_193)}
    for side, (width, depth, heads, patch, total) in sizes.items():
        made = plan(on_meta(lambda: OpenAiVit(width, depth, heads, patch, side, 1280), 4, 2, 1280))  # noqa: B023
        vision = sum(p.numel() for p in made.tower.tower.parameters())
        adapter = sum(p.numel() for p in made.adapter.parameters())
        assert (made.tower.heads, made.tower.preprocess.size, adapter) == (heads, side, 273_769_728)
        assert vision + adapter + 1 == total  # interop.md, section 1
    made = plan(on_meta(lambda: OpenAiVit(768, 12, 12, 16, 224, 512), 1, 8, 512))
    assert (made.adapter.config.num_blocks, made.adapter.config.expansion, made.adapter.embed_dim) == (1, 8, 512)


def test_sizes_of_the_released_towers_of_timm(tiny_timm: None) -> None:
    made = plan(on_meta(lambda: EvaVit(1024, 24, 16, 14, 336, 1280), 4, 2, 1280))
    assert made.tower.name.endswith("eva02_large_patch14_clip_336")
    assert (made.tower.heads, made.tower.preprocess.size, len(made.tower.dropped)) == (16, 336, 50)
    made = plan(on_meta(lambda: SiglipVit(1152, 27, 16, 14, 224, 3.7362), 4, 2, 1152))
    assert made.tower.name.endswith("vit_so400m_patch14_siglip_224")
    assert (made.tower.heads, made.tower.hidden) == (16, 4304)
    made = plan(on_meta(lambda: SiglipVit(1152, 27, 16, 14, 378, 3.7362), 4, 2, 1152))
    assert made.tower.name.endswith("vit_so400m_patch14_siglip_378")
    facts = dict(made.facts())
    assert facts["LLM"] == "4096 dimensions, input norm l2" and facts["patch, image size"] == "14, 378 pixels"


@pytest.mark.parametrize("kind", [*KINDS, "gelu"])
def test_there_and_back(
    kind: str, convert: Convert, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    need(kind, request)
    official, again = tiny(kind), tiny("eva" if kind == "eva-bare" else kind, seed=1)
    torch.save(official.state_dict(), tmp_path / "in.pt")
    model = convert(tmp_path / "in.pt", *(["--activation", "gelu"] if kind == "gelu" else []))
    folder, out = next(tmp_path.glob("converted-*")), tmp_path / "out.pt"
    assert main(["convert", str(folder), str(out), "--to", "llm2clip"]) == 0
    written = torch.load(out, weights_only=True)
    assert set(written) == {"state_dict"}
    again.load_state_dict(written["state_dict"], strict=True)  # the official model, buffers and all
    same_outputs(model, again)
    if kind != "eva-bare":  # its bare biases come back under the names of LLM2CLIP's code
        state = official.state_dict()
        for name, tensor in written["state_dict"].items():
            exact = "freqs" not in name
            torch.testing.assert_close(
                tensor, state[name], **({"atol": 0, "rtol": 0} if exact else {"atol": 1e-5, "rtol": 0})
            )
    for taken in (out, out / "inside"):
        capsys.readouterr()
        assert main(["convert", str(folder), str(taken), "--to", "llm2clip"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{out} is there already" in error or f"the folder {out} cannot be made: a file is in its" in error


@pytest.mark.parametrize("kind", ["eva02", "siglip"])
def test_open_clips_towers_there_and_back_and_between(
    kind: str, convert: Convert, tiny_timm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes back reads pictures as the CLIP does that it was tuned from, and can be interpolated to it."""
    name = f"open_clip:{save_tiny_open_clip(kind, tmp_path / 'clip')}"
    original, tuned = load_clip(name), load_clip(name)
    with torch.no_grad():
        for parameter in tuned.image_tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    adapter = Adapter(LLM_DIM, tuned.dim, AdapterConfig(num_blocks=1))
    model = ProCLIP(tuned.image_tower, adapter, 2.0, tuned.preprocess, EmbedderConfig(model="nobody/llm"))
    rows = dict(write_llm2clip(model, tmp_path / "out.pt"))
    vision = rows["vision_cfg"]
    assert original.image_tower.config["vision_cfg"]["timm_model_name"] in vision and "eva_model_name" not in vision
    back = convert(tmp_path / "out.pt", "--clip", name)
    assert back.preprocess == original.preprocess
    ends = original.image_tower.state_dict(), tuned.image_tower.state_dict()
    folder, half = next(tmp_path.glob("converted-*")), tmp_path / "half"
    assert main(["interpolate", str(folder), "--alpha", "0.5", "--out", str(half)]) == 0, capsys.readouterr().err
    for key, tensor in ProCLIP.from_pretrained(half).image_tower.state_dict().items():
        torch.testing.assert_close(tensor, (ends[0][key] + ends[1][key]) / 2)


def test_the_origin_is_told_and_can_be_interpolated_to(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model says what it was converted from, and, where it is told, which CLIP its image tower began as."""
    source, original, half = tmp_path / "epoch_20.pt", tmp_path / "clip", tmp_path / "half"
    torch.save({"state_dict": tiny("openai").state_dict()}, source)
    clip = CLIPConfig(
        vision_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 16, "patch_size": 8, "hidden_act": "quick_gelu"},
        text_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                     "vocab_size": 600, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513},
        projection_dim=12,
    )  # fmt: skip
    CLIPModel(clip).save_pretrained(original)
    train_tokenizer(["a red bar"], 514).save_pretrained(original)
    preprocess = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3}
    found = plan(read_checkpoint(str(source))).tower.preprocess
    statistics = {"image_mean": list(found.mean), "image_std": list(found.std)}
    (original / "preprocessor_config.json").write_text(json.dumps(preprocess | statistics))
    model = convert(source, "--clip", str(original))
    folder, digest = next(tmp_path.glob("converted-*")), hashlib.sha256(source.read_bytes()).hexdigest()
    assert model.clip_name == str(original)
    assert model.provenance is not None
    assert model.provenance["converted_from"] == {"source": "epoch_20.pt", "sha256": {"epoch_20.pt": digest}}
    assert f"converted from `epoch_20.pt`: `epoch_20.pt` (sha256 {digest})" in (folder / "README.md").read_text()
    capsys.readouterr()
    assert main(["inspect", str(folder)]) == 0
    assert "converted from" in capsys.readouterr().out
    assert describe(str(folder))["trained"]["converted_from"]["sha256"] == {"epoch_20.pt": digest}
    assert main(["interpolate", str(folder), "--alpha", "0.5", "--out", str(half)]) == 0, capsys.readouterr().err
    theirs = CLIPModel.from_pretrained(original).visual_projection.weight
    (original / "preprocessor_config.json").write_text(json.dumps(preprocess | statistics | {"image_mean": [0.5] * 3}))
    assert main(["interpolate", str(folder), "--alpha", "0.5", "--out", str(tmp_path / "other")]) == 2
    assert "read pictures differently" in capsys.readouterr().err
    mixed = ProCLIP.from_pretrained(half)
    ends = {name: tensor for name, tensor in model.image_tower.state_dict().items() if "projection" in name}
    assert len(ends) == 1
    for name, tensor in ends.items():
        torch.testing.assert_close(mixed.image_tower.state_dict()[name], (tensor + theirs) / 2)
    assert mixed.provenance is not None and mixed.provenance["converted_from"] == model.provenance["converted_from"]

    run = tmp_path / "run"  # a run folder is taken for its model, on the way back
    run.mkdir()
    (run / "recipe.toml").write_text("")
    assert main(["convert", str(run), str(tmp_path / "x.pt"), "--to", "llm2clip"]) == 2
    assert "has not finished" in capsys.readouterr().err
    folder.rename(run / "model")
    assert main(["convert", str(run), str(tmp_path / "back.pt"), "--to", "llm2clip"]) == 0
    again = tiny("openai", seed=1)
    again.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True)["state_dict"])
    same_outputs(model, again)


def as_checkpoint(model: ProCLIP) -> dict[str, Tensor]:
    """open_clip's names of the image tower as they are, the official ones of the rest."""
    official = {rule.theirs: rule.to_theirs(model.state_dict()) for rule in adapter_rules("text.text_adaptor.", 3)}
    return {**model.image_tower.state_dict(), **official, "logit_scale": model.logit_scale.detach()}


def test_eva_under_open_clips_names(convert: Convert, tmp_path: Path, tiny_timm: None) -> None:
    official = tiny("eva")
    torch.save(official.state_dict(), tmp_path / "eva.pt")
    state = as_checkpoint(convert(tmp_path / "eva.pt"))
    assert "visual.trunk.head.weight" in state
    torch.save(state, tmp_path / "trunk.pt")
    model = convert(tmp_path / "trunk.pt")
    same_outputs(model, official)
    assert (model.preprocess.resize, model.preprocess.mean[0]) == ("crop", 0.48145466)


@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_timm_tower_with_a_projection(proj: str, convert: Convert, tmp_path: Path, tiny_timm: None) -> None:
    vision = {"image_size": 16, "timm_model_name": "vit_tiny_patch4_siglip_16", "timm_pool": "map", "timm_proj": proj}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tower = build_image_tower("open_clip", {"vision_cfg": vision, "quick_gelu": False}, 12).eval()
    state = {**tiny("openai").state_dict(), **tower.state_dict()}
    torch.save({k: v for k, v in state.items() if k in tower.state_dict() or "visual" not in k}, tmp_path / "proj.pt")
    model, pixels = convert(tmp_path / "proj.pt"), torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model.image_tower(pixels), tower(pixels), atol=1e-6, rtol=0)


def test_open_clips_own_vit_to_the_official_code(convert: Convert, tmp_path: Path, tiny_timm: None) -> None:
    torch.save(tiny("openai").state_dict(), tmp_path / "in.pt")
    model, official = convert(tmp_path / "in.pt"), tiny("openai", seed=1)
    vision = {"image_size": 16, "layers": 2, "width": 128, "patch_size": 8}
    model.image_tower = build_image_tower("open_clip", {"vision_cfg": vision, "quick_gelu": True}, 12).eval()
    rows = dict(write_llm2clip(model, tmp_path / "out.pt"))
    assert (rows["quick_gelu"], rows["embed_dim"]) == ("True", "12")
    official.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True)["state_dict"], strict=True)
    same_outputs(model, official)
    for change, message in (
        ({"ls_init_value": 0.1}, "has no ls_init_value"),
        ({"layers": [1, 1, 1, 1]}, "ResNet"),
    ):
        config = {"vision_cfg": {**vision, **change}, "quick_gelu": True}
        model.image_tower = build_image_tower("open_clip", config, 12)
        with pytest.raises(ProclipError, match=message):
            write_llm2clip(model, tmp_path / "other.pt")


def test_what_the_official_code_cannot_hold(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(tiny("openai").state_dict(), tmp_path / "in.pt")
    convert(tmp_path / "in.pt")
    folder = next(tmp_path.glob("converted-*"))
    config = json.loads((folder / "config.json").read_text())
    vision = config["image_tower"]["config"]
    for part, changed, message in (
        ("adapter", config["adapter"] | {"input_norm": "standardize"}, "input_norm is 'standardize'"),
        ("image_tower", {"family": "clip", "config": vision | {"hidden_act": "silu"}}, "activation is 'silu'"),
        ("image_tower", {"family": "clip", "config": vision | {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {part: changed}))
        assert main(["convert", str(folder), str(tmp_path / "out.pt"), "--to", "llm2clip"]) == 2
        assert message in capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "out.pt"), "--to", "llm2clip", "--heads", "2"]) == 2
    assert "takes no option but --revision" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_temperature_is_held_in_its_range(convert: Convert, tmp_path: Path) -> None:
    state = tiny("openai").state_dict()
    torch.save(state | {"logit_scale": torch.tensor(math.log(100)).half()}, tmp_path / "top.pt")  # rounds up
    assert float(convert(tmp_path / "top.pt").logit_scale.detach()) <= math.log(100) + 1e-6


def test_embedder_is_stated_or_known(tmp_path: Path, tiny_llm_path: Path) -> None:
    (tmp_path / "e.toml").write_text(f'[embedder]\nmodel = "{tiny_llm_path}"\nlayer = 1\n')
    (tmp_path / "keys.toml").write_text('model = "somebody/model"\n')
    chosen = choose_embedder(str(tmp_path / "e.toml"), ["embedder.layer=0"], None)
    assert (chosen.model, chosen.layer) == (str(tiny_llm_path), 0)
    assert choose_embedder(str(tmp_path / "keys.toml"), [], None).model == "somebody/model"
    for stated, settings, message in (
        (None, [], "which LLM was the adapter trained with"),
        ("llama", [], r"neither a preset \(llama3-8b-cc\) nor a TOML file"),
        (None, ["model=x"], "settings of the embedder only"),
        (None, ["embedder.modle=x"], "did you mean 'model'"),
    ):
        with pytest.raises(ProclipError, match=message):
            choose_embedder(stated, settings, None)


def test_width_of_an_embedder(tmp_path: Path) -> None:
    config = EmbedderConfig(model=str(tmp_path), backend="sentence-transformers")
    assert embedder_dim(config) is None
    for values, width in (
        ({"hidden_size": 32}, 32), ({"text_config": {"hidden_size": 24}}, 24), ({"text_config": "x"}, None),
        ({"hidden_size": "32"}, None), ({}, None),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert embedder_dim(config) == width
    (tmp_path / "2_Dense").mkdir()
    for dense, width in (({"out_features": 8}, 8), ({}, None)):
        (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(dense))
        assert embedder_dim(config) == width


def test_the_embedder_of_a_converted_model_is_guarded(
    convert: Convert, tiny_llm_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the LLM is a folder; a hub id gives no hash, and the screen says so."""
    torch.save(tiny("openai").state_dict(), tmp_path / "in.pt")
    model = convert(tmp_path / "in.pt")
    assert model.embedder_identity is not None and model.embedder_identity == model.embedder.identity
    other = shutil.copytree(tiny_llm_path, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    folder = next(tmp_path.glob("converted-*"))
    with pytest.raises(ProclipError, match="not the one the adapter was trained with: files"):
        ProCLIP.from_pretrained(folder, embedder=other).encode_text("a red bar")

    command = ["convert", str(tmp_path / "in.pt"), str(tmp_path / "out"), "--set"]
    assert main([*command, "embedder.model=/nowhere/x"]) == 2
    assert "embedder.model '/nowhere/x': there is no such folder" in capsys.readouterr().err
    assert main([*command, "embedder.model=org/llm"]) == 0
    assert "no hash of its files" in (tmp_path / "out" / "README.md").read_text()
    assert ProCLIP.from_pretrained(tmp_path / "out").embedder_identity is None


def test_preset_is_a_valid_embedder() -> None:
    official = {"architectures": ["LLM2CLIPModel"]}
    assert choose_embedder(None, [], official) == choose_embedder("llama3-8b-cc", [], None)
    assert choose_embedder(None, [], official).model == PRESETS["llama3-8b-cc"]["model"]


def released(source: str, out: Path, options: Sequence[str] = (), heads: int | None = None) -> ProCLIP:
    """Convert with the command; the outputs are those of the official arithmetic on the same files, read again."""
    revision = options[options.index("--revision") + 1] if "--revision" in options else None
    assert main(["convert", source, str(out), *options]) == 0
    official, size, llm_dim = official_model(read_checkpoint(source, revision).path, heads)
    model = ProCLIP.from_pretrained(out)
    assert (model.preprocess.size, model.adapter.llm_dim) == (size, llm_dim)
    generator = torch.Generator().manual_seed(3)
    pixels, llm_embeds = (torch.randn(shape, generator=generator) for shape in ((3, 3, size, size), (4, llm_dim)))
    normalize = torch.nn.functional.normalize
    with torch.inference_mode():
        for ours, theirs, given in (
            (model.image_tower, official.visual, pixels), (model.adapter, official.text, llm_embeds),
        ):  # fmt: skip
            wanted = normalize(theirs(given), dim=-1)
            assert torch.pdist(wanted).min() > 1e-3
            torch.testing.assert_close(normalize(ours(given), dim=-1), wanted, atol=1e-5, rtol=0)
    assert float(model.logit_scale.detach()) == pytest.approx(float(official.logit_scale.detach()), abs=1e-3)
    assert model.provenance is not None and model.provenance["converted_from"]["sha256"]
    return model


@pytest.mark.parametrize("kind", [*KINDS, "hub"])
def test_the_check_of_released_models(
    kind: str, tiny_llm_path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    need("openai" if kind == "hub" else kind, request)
    if kind == "hub":
        hub_model(tiny("openai"), tmp_path / "source")
    else:
        torch.save({"module": tiny(kind).state_dict()}, tmp_path / "source.pt")
    heads = 3 if kind.startswith("siglip") else 2
    llm = ["--set", f"embedder.model={tiny_llm_path}", "--set", "embedder.dtype=float32"]
    released(str(tmp_path / ("source" if kind == "hub" else "source.pt")), tmp_path / "out", llm, heads)


CC_1B = "microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned"
RELEASED: dict[str, tuple[list[str], dict[str, int]]] = {
    "microsoft/LLM2CLIP-Openai-B-16": (
        ["--revision", "ecfb347e"], {"side": 224, "all": 360_552_193, "adapter": 273_769_728, "llm": 4096, "out": 1280},
    ),
    "microsoft/LLM2CLIP-Openai-L-14-224": (["--revision", "6b8a11a9"], {"side": 224, "llm": 4096, "out": 1280}),
    "microsoft/LLM2CLIP-Openai-L-14-336": (
        ["--revision", "92512331"], {"side": 336, "all": 578_587_905, "adapter": 273_769_728, "llm": 4096, "out": 1280},
    ),
    "microsoft/LLM2CLIP-EVA02-L-14-336": (["--embedder", "llama3-8b-cc"], {"side": 336, "llm": 4096, "out": 1280}),
    "microsoft/LLM2CLIP-Llama3.2-1B-EVA02-L-14-336": (
        ["--set", f"embedder.model={CC_1B}", "--set", "embedder.backend=llm2vec"],
        {"side": 336, "llm": 2048, "out": 1280},
    ),
    "VisionXLab/ProCLIP": (["--embedder", "llama3-8b-cc"], {"llm": 4096}),
}  # fmt: skip
"""Options, and what is known of the sizes; of ProCLIP's own release neither files nor widths are."""


@pytest.mark.network
@pytest.mark.parametrize("name", list(RELEASED))
def test_released_models(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    options, sizes = RELEASED[name]
    if "Openai" not in name:
        need("eva", request)
    model = released(name, tmp_path / "model", options)
    vision, adapter = (sum(p.numel() for p in part.parameters()) for part in (model.image_tower, model.adapter))
    found = {
        "side": model.preprocess.size, "llm": model.adapter.llm_dim, "out": model.adapter.embed_dim,
        "adapter": adapter, "all": vision + adapter + 1,
    }  # fmt: skip
    assert {key: found[key] for key in sizes} == sizes
