"""OpenCLIP towers, tokenizer and preprocessing against open_clip itself; every form of name; what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_open_clip import TINY, save_tiny_open_clip, tiny_sentencepiece_like
from torch import Tensor
from torch.nn.functional import normalize

from proclip.cli import main
from proclip.errors import ProclipError
from proclip.models.clip import Clip, load_clip
from proclip.models.open_clip import OpenClipImageTower
from proclip.models.open_clip_source import find_open_clip
from proclip.models.preprocess import ImagePreprocess
from proclip.models.towers import build_image_tower
from proclip.runs.inspect import describe

TEXTS = ["a red square", "The GREEN bar, seen\n from above; it's  &amp; 3 photos!", "x", "消防车 über 🚒"]
Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(torchvision_operators: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = tmp_path_factory.mktemp("open_clip")
    return lambda kind: root / kind if (root / kind).is_dir() else save_tiny_open_clip(kind, root / kind)


def pictures() -> list[Image.Image]:
    """Landscape and portrait, margins of every remainder by four, smaller and larger than the towers' images."""
    sides = [(40, 31), (31, 55), (90, 33), (35, 32), (20, 27), (32, 32)]
    return [Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB") for size in sides]


def same_as_open_clip(name: str, theirs_name: str, tag: str | None = None) -> tuple[Clip, Any, Tensor, Tensor]:
    """Pictures and texts have open_clip's own vectors; returns ours, theirs, and its image and text embeds."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(theirs_name, pretrained=tag)
    tokenizer = open_clip.get_tokenizer(theirs_name)
    clip, model = load_clip(name), model.eval()
    theirs = torch.stack([transform(image) for image in pictures()])
    ours = torch.stack([clip.preprocess(image) for image in pictures()])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    with torch.inference_mode():
        image_embeds = normalize(model.encode_image(theirs), dim=-1)
        text_embeds = normalize(model.encode_text(tokenizer(TEXTS)), dim=-1)
        assert image_embeds.shape == (6, clip.dim)
        torch.testing.assert_close(normalize(clip.image_tower(ours), dim=-1), image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode(TEXTS).embeds, text_embeds, atol=1e-5, rtol=0)
    assert torch.equal(clip.tokenizer(TEXTS).input_ids, tokenizer(TEXTS))
    return clip, model, image_embeds, text_embeds


@pytest.mark.parametrize("kind", TINY)
def test_equal_to_open_clip(kind: str, make: Make) -> None:
    clip, model, image_embeds, text_embeds = same_as_open_clip(str(make(kind)), f"local-dir:{make(kind)}")
    for embeds in (image_embeds, text_embeds):  # else the comparison would say little
        assert torch.pdist(embeds).min() > 1e-3
    assert clip.logit_scale == pytest.approx(float(model.logit_scale.detach()))
    assert clip.logit_bias == (None if model.logit_bias is None else pytest.approx(float(model.logit_bias.detach())))
    assert (clip.logit_bias is not None) == (kind == "siglip")
    assert {n.removeprefix("visual.") for n in clip.image_tower.state_dict()} == set(model.visual.state_dict())
    assert not any("visual" in n or "decoder" in n or "logit" in n for n in clip.text_tower.state_dict())


@pytest.mark.parametrize("kind", TINY)
def test_tower_from_its_config(kind: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = load_clip(str(make(kind))).image_tower
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("the network was asked"))
    config = json.loads(json.dumps(tower.config))
    assert set(config) == {"vision_cfg", "quick_gelu"}
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = True
    again = build_image_tower("open_clip", config, tower.embed_dim)
    assert isinstance(again, OpenClipImageTower)
    assert again.config == tower.config
    again.load_state_dict(tower.state_dict())
    side = TINY[kind]["vision_cfg"]["image_size"]
    pixels = torch.randn(2, 3, side, side)
    torch.testing.assert_close(again.eval()(pixels), tower(pixels))


@pytest.mark.parametrize(
    ("kind", "prefix", "count"),
    [
        ("vit", "visual.transformer.resblocks.", 3), ("coca", "visual.transformer.resblocks.", 3),
        ("eva02", "visual.trunk.blocks.", 3), ("siglip", "visual.trunk.blocks.", 2),
        ("convnext", "visual.trunk.stages.", 4), ("resnet", "visual.layer", 4),
    ],
)  # fmt: skip
def test_blocks_are_the_towers_own(kind: str, prefix: str, count: int, make: Make) -> None:
    tower = load_clip(str(make(kind))).image_tower
    assert len(tower.blocks) == count
    names = {parameter: name for name, parameter in tower.named_parameters()}
    start = 1 if kind == "resnet" else 0
    for number, block in enumerate(tower.blocks, start):
        assert all(names[parameter].startswith(f"{prefix}{number}.") for parameter in block.parameters())
    in_blocks = sum(p.numel() for p in tower.blocks.parameters())
    assert in_blocks == sum(p.numel() for p, name in names.items() if name.startswith(prefix))


def test_state_dict_has_the_names_of_open_clip(make: Make) -> None:
    names = set(load_clip(str(make("eva02"))).image_tower.state_dict())
    block = "visual.trunk.blocks.1."
    assert {"visual.trunk.cls_token", "visual.trunk.pos_embed", "visual.trunk.head.weight"} <= names
    assert {f"{block}attn.q_proj.bias", f"{block}attn.v_proj.bias", f"{block}mlp.fc1_g.weight"} <= names
    assert f"{block}attn.k_proj.bias" not in names
    assert not any("rope" in name for name in names)
    assert {"visual.class_embedding", "visual.proj"} <= set(load_clip(str(make("vit"))).image_tower.state_dict())


@pytest.mark.parametrize(("kind", "context"), [("vit", 77), ("coca", 76), ("siglip", 16)])
def test_long_texts_are_cut_counted_and_keep_their_end(kind: str, context: int, make: Make) -> None:
    clip = load_clip(str(make(kind)))
    tokens = clip.tokenizer([" ".join(["red"] * 200), "a bar", "red " * (context - 2)])
    end = 1 if kind == "siglip" else 49407
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (3, context)
    assert tokens.truncated == 1
    assert tokens.input_ids[0, -1] == end
    assert tokens.attention_mask.sum(1).tolist()[0] == context
    row = int(tokens.attention_mask[1].sum())
    assert tokens.input_ids[1, row - 1] == end
    assert clip.encode(["red " * 300, "a bar", "red " * 301]).truncated == 2
    with pytest.raises(ProclipError, match="text 1 of 2 is empty"):
        clip.encode(["a", " \n"])


def test_preprocess_is_saved_and_read(make: Make, tmp_path: Path) -> None:
    for kind in ("vit", "siglip", "convnext"):
        preprocess = load_clip(str(make(kind))).preprocess
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocess.to_config()))
        assert ImagePreprocess.from_folder(tmp_path) == preprocess
    assert load_clip(str(make("siglip"))).preprocess.resize == "squash"


@pytest.fixture
def known(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """open_clip knows the model ``proclip-tiny`` and its tags ``made_here`` and ``made_quick``."""
    import open_clip
    from open_clip import factory, pretrained

    folder = make("vit")
    (tmp_path / "proclip-tiny.json").write_text(json.dumps(TINY["vit"]))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "proclip-tiny.json")
    file = {"file": str(folder / "open_clip_model.safetensors"), "mean": (0.25,) * 3, "interpolation": "bilinear"}
    tags = {"made_here": file, "made_quick": {**file, "quick_gelu": True}, "gone": {"file": "/nowhere/x.safetensors"}}
    monkeypatch.setitem(pretrained._PRETRAINED, "proclip-tiny", tags)
    return folder


def test_names_with_tag_file_and_folder(known: Path, tmp_path: Path) -> None:
    import open_clip

    weights = known / "open_clip_model.safetensors"
    by_folder, by_tag = load_clip(f"open_clip:{known}"), load_clip("open_clip:proclip-tiny/made_here")
    by_file = load_clip(f"open_clip:proclip-tiny/{weights}")
    assert by_tag.identity["model"] == "proclip-tiny/made_here"
    assert by_file.identity["model"] == "proclip-tiny/open_clip_model.safetensors"
    assert by_folder.identity["model"] == "vit"
    assert len({clip.identity["sha256"] for clip in (by_folder, by_tag, by_file)}) == 1
    assert by_tag.preprocess.mean == (0.25,) * 3
    assert by_tag.preprocess.resample == Image.Resampling.BILINEAR
    assert by_file.preprocess.mean == open_clip.OPENAI_DATASET_MEAN
    for clip in (by_tag, by_file):
        torch.testing.assert_close(clip.encode(TEXTS).embeds, by_folder.encode(TEXTS).embeds)
    _, _, transform = open_clip.create_model_and_transforms("proclip-tiny", "made_here")
    for image in pictures():
        torch.testing.assert_close(by_tag.preprocess(image), transform(image), atol=1e-6, rtol=0)
    other = load_clip(f"open_clip:{save_tiny_open_clip('vit', tmp_path / 'vit', seed=1)}")
    assert other.identity["sha256"] != by_folder.identity["sha256"]


def test_a_tag_trained_with_quick_gelu_gets_it(known: Path) -> None:
    import open_clip

    clip, plain = load_clip("open_clip:proclip-tiny/made_quick"), load_clip("open_clip:proclip-tiny/made_here")
    weights = str(known / "open_clip_model.safetensors")
    model = open_clip.create_model("proclip-tiny", weights, force_quick_gelu=True).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(clip.image_tower(pixels), model.encode_image(pixels))
        assert (clip.image_tower(pixels) - plain.image_tower(pixels)).abs().max() > 1e-4
    assert clip.image_tower.config["quick_gelu"] is True


def test_hub_models_from_the_cache(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own cache layout, offline: what `hf-hub:` and a plain id of a model without transformers config do."""
    from huggingface_hub import constants

    for name, file in (("tiny-eva", "open_clip_model.safetensors"), ("tiny-bin", "open_clip_pytorch_model.bin")):
        repo = tmp_path / f"models--org--{name}"
        for commit in ("a" * 40, "b" * 40):
            save_tiny_open_clip("eva02", repo / "snapshots" / commit, seed=int(commit[0] == "b"))
            config = json.loads((repo / "snapshots" / commit / "open_clip_config.json").read_text())
            config["preprocess_cfg"] = {"mean": [0.5 if commit[0] == "a" else 0.25] * 3}
            (repo / "snapshots" / commit / "open_clip_config.json").write_text(json.dumps(config))
            if file.endswith(".bin"):
                weights = repo / "snapshots" / commit / "open_clip_model.safetensors"
                torch.save(load_file(weights), repo / "snapshots" / commit / file)
                weights.unlink()
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    local = load_clip(str(make("eva02"))).encode(TEXTS).embeds
    for name in ("hf-hub:org/tiny-eva", "org/tiny-eva", "hf-hub:org/tiny-bin", "org/tiny-bin"):
        clip = load_clip(name)
        torch.testing.assert_close(clip.encode(TEXTS).embeds, local)
        assert clip.identity["model"] == name.rsplit("/", 1)[-1]
        assert clip.preprocess.mean == (0.5,) * 3
        facts = describe(name)
        assert (facts["revision"], facts["sha256"]) == ("a" * 40, clip.identity["sha256"])
    revised = load_clip("hf-hub:org/tiny-eva", "b" * 40)
    assert revised.preprocess.mean == (0.25,) * 3
    assert (revised.encode(TEXTS).embeds - local).abs().max() > 1e-2
    with pytest.raises(ProclipError, match="hf-hub:org/none is no OpenCLIP model that the hub gives"):
        load_clip("hf-hub:org/none")


def test_inspect(make: Make, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(make("siglip"), tmp_path / "card")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    plain = describe(str(folder))
    assert describe(f"open_clip:{folder}") == plain and plain["card"] == {"license": "mit"}
    assert plain["image_tower"] == {"family": "open_clip", "blocks": 2, "image_size": 16}
    weights = known / "open_clip_model.safetensors"
    by_tag, by_file = (describe(f"open_clip:proclip-tiny/{of}") for of in ("made_here", weights))
    assert by_tag == by_file and by_tag["parameters"]["image_tower"] and "card" not in by_tag
    assert main(["inspect", f"open_clip:{folder}"]) == 0
    assert "context length 16" in capsys.readouterr().out
    for name, message in (("open_clip:ViT-B-32/x", "no such tag"), ("hf-hub:org/none", "no OpenCLIP model")):
        assert main(["inspect", name]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_with_both_configs_stays_with_transformers(make: Make, tiny_clip_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip_path, tmp_path / "both")
    shutil.copy(make("vit") / "open_clip_config.json", folder)
    assert load_clip(str(folder)).image_tower.family == "clip"
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny", "num_classes": 0}))  # timm's
    (folder / "model.safetensors").unlink()
    shutil.copy(make("vit") / "open_clip_model.safetensors", folder)
    assert load_clip(str(folder)).image_tower.family == "open_clip"


def test_hugging_face_text_encoder(make: Make, tmp_path: Path) -> None:
    """A text tower that is a transformers model: its config is read by name, its weights come from the checkpoint."""
    import open_clip
    from transformers import RobertaConfig

    RobertaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=0,
    ).save_pretrained(tmp_path / "roberta")  # fmt: skip
    text = {"hf_model_name": str(tmp_path / "roberta"), "hf_tokenizer_name": "x", "hf_pooler_type": "mean_pooler"}
    config = {"embed_dim": 12, "vision_cfg": TINY["vit"]["vision_cfg"], "text_cfg": {**text, "context_length": 30}}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    tiny_sentencepiece_like().save_pretrained(folder)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False).eval()
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    clip, tokenizer = load_clip(str(folder)), open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        theirs = normalize(model.encode_text(tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(clip.encode(TEXTS).embeds, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_cfg": {"embed_dim": 12}}, "model_cfg with embed_dim, vision_cfg and text_cfg is missing"),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode 'longest' is not supported, only shortest"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:evil/model"}}, "timm .* has no model 'hf-hub:evil/model'"),
        ({"vision_cfg": {"image_size": [32, 48]}}, "images of 32 x 48 pixels are not supported"),
        ({"vision_cfg": {"widht": 3}}, "cannot build the model: .*widht"),
        ({"vision_cfg": {"width": 48}}, r"open_clip_model\.safetensors: the weights cannot be loaded: .*size mismatch"),
        ({"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "syntax"}}}, "tokenizer_kwargs reduction_mask not"),
        ({"text_cfg": {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}}, "tokenizer_kwargs bpe_path not supported"),
        ({"text_cfg": {"hf_model_name": "/nowhere/at-all"}}, "config '/nowhere/at-all' cannot be loaded"),
    ],
)
def test_bad_configs_are_one_clear_line(change: dict, message: str, make: Make, tmp_path: Path) -> None:
    folder = shutil.copytree(make("vit"), tmp_path / "copy")
    config = json.loads((folder / "open_clip_config.json").read_text())
    for key, value in change.items():
        if key in ("vision_cfg", "text_cfg"):
            config["model_cfg"][key].update(value)
        else:
            config[key] = value
    if "image_size" in change.get("vision_cfg", {}):
        (folder / "open_clip_model.safetensors").unlink()
        import open_clip

        (folder / "open_clip_config.json").write_text(json.dumps(config))
        model = open_clip.create_model(f"local-dir:{folder}")
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ProclipError, match=message) as caught:
        load_clip(str(folder))
    assert "\n" not in str(caught.value)


def test_nothing_of_a_checkpoint_is_executed(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "executed",))  # type: ignore[return-value]

    folder = shutil.copytree(make("siglip"), tmp_path / "copy")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"x": Payload()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ProclipError, match=r"open_clip_pytorch_model\.bin: the weights cannot be loaded"):
        load_clip(str(folder))
    assert not (tmp_path / "executed").exists()

    folder = shutil.copytree(make("siglip"), tmp_path / "code")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ProclipError, match="tokenizer_kwargs trust_remote_code not supported"):
        load_clip(str(folder))

    folder = shutil.copytree(make("siglip"), tmp_path / "tokenizer")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"import pathlib\n\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask
    with pytest.raises(ProclipError, match=r"the tokenizer '.*' cannot be loaded: .*custom code"):
        load_clip(str(folder))
    assert not (tmp_path / "executed").exists()


def test_bad_names(known: Path, tmp_path: Path) -> None:
    for name, message in (
        ("open_clip:ViT-Z-99/laion", r"'ViT-Z-99' is no model of open_clip .* open_clip:MODEL/TAG"),
        ("open_clip:proclip-tiny", "no such tag; proclip-tiny has made_here, made_quick"),
        ("open_clip:ViT-B-32/laion5b", "no such tag; ViT-B-32 has openai, .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/nowhere.safetensors", r"there is no file nowhere\.safetensors"),
        ("open_clip:proclip-tiny/gone", "the weights cannot be loaded"),
        (f"open_clip:{tmp_path}", r"open_clip_config\.json is missing"),
    ):
        with pytest.raises(ProclipError, match=message):
            load_clip(name)
    with pytest.raises(ProclipError, match="a revision is for models of the hub"):
        find_open_clip("open_clip:ViT-B-32/laion2b_s34b_b79k", "main")
    folder = shutil.copytree(known, tmp_path / "copy")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ProclipError, match=r"has no weights: one of open_clip_model\.safetensors"):
        load_clip(str(folder))


LOAD = """
import sys
from proclip.errors import ProclipError
from proclip.models.clip import Clip, load_clip
sys.path.append(sys.argv[1])
try:
    load_clip("open_clip:ViT-B-32/laion2b_s34b_b79k")
except ProclipError as error:
    print(error)
"""
BROKEN = "import torch\n\n@torch.library.register_fake('torchvision::nms')\ndef nms(): ...\n"


def torchvision_to_install() -> str:
    release, _, build = torch.__version__.partition("+")
    major, minor, patch = release.split(".")[:3]
    assert major == "2"
    return f"torchvision==0.{int(minor) + 15}.{patch}" + (
        f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    )


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="the torchvision that is installed would be taken")
def test_a_torchvision_of_another_build(tmp_path: Path) -> None:
    """It fails as the registry's does beside a CPU torch: it registers an operator that is not there."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN)
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    message = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    assert "operator torchvision::nms does not exist" in message
    assert f"not built for the installed torch {torch.__version__}" in message
    assert message.endswith(f"pip install --force-reinstall --no-deps {torchvision_to_install()}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("torchvision", "OpenCLIP models need torchvision, which is missing: "),
        ("timm", "open_clip is missing or incomplete \\(.*timm"),
        ("open_clip", "open_clip is missing or incomplete \\(.*open_clip"),
    ],
)
def test_the_extra_is_missing(missing: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torchvision", "timm", "open_clip"):
        monkeypatch.setitem(sys.modules, module, None if module == missing else ModuleType(module))
    for opened in (load_clip, describe):
        with pytest.raises(ProclipError, match=message) as caught:
            opened("open_clip:ViT-B-32/laion2b_s34b_b79k")
        assert str(caught.value).endswith("pip install 'proclip-align[open-clip]'")
        assert (f": pip install {torchvision_to_install()}; then" in str(caught.value)) == (missing == "torchvision")


@pytest.mark.slow
def test_every_image_tower_that_open_clip_names(torchvision_operators: None) -> None:
    """Of full size, without storage: each is built from its config and its blocks are most of it."""
    import open_clip

    towers = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        towers[json.dumps([config["embed_dim"], config["vision_cfg"]])] = name, config
    assert len(towers) > 80
    for name, config in towers.values():
        with torch.device("meta"):
            tower = OpenClipImageTower.from_config(config, config["embed_dim"])
        inside, whole = (sum(p.numel() for p in part.parameters()) for part in (tower.blocks, tower))
        assert inside > 0.6 * whole, name


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "dim", "context"),
    [
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", 512, 77),
        ("open_clip:ViT-B-32/openai", 512, 77),
        ("open_clip:EVA02-L-14/merged2b_s4b_b131k", 768, 77),
        ("hf-hub:timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k", 768, 77),
        ("hf-hub:timm/ViT-SO400M-14-SigLIP", 1152, 16),
        ("open_clip:convnext_base_w/laion2b_s13b_b82k", 640, 77),
        ("open_clip:coca_ViT-B-32/laion2b_s13b_b90k", 512, 76),
        ("hf-hub:apple/MobileCLIP-S1-OpenCLIP", 512, 77),
    ],
)
def test_real_models(torchvision_operators: None, name: str, dim: int, context: int, tiny_world: Path) -> None:
    model, _, tag = name.removeprefix("open_clip:").partition("/")
    if name.startswith("hf-hub:"):
        model, tag = name, ""
    elif tag == "openai":  # under the plain name open_clip only warns that these weights want QuickGELU
        model += "-quickgelu"
    clip = same_as_open_clip(name, model, tag or None)[0]
    assert clip.dim == dim
    assert clip.tokenizer.context_length == context
    red, green = (Image.open(tiny_world / "images" / f"{colour}-square.png") for colour in ("red", "green"))
    with torch.inference_mode():
        pixels = torch.stack([clip.preprocess(image) for image in (red, green)])
        image_embeds = normalize(clip.image_tower(pixels), dim=-1)
    scores = image_embeds @ clip.encode(["a red square", "a green square"]).embeds.T
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
