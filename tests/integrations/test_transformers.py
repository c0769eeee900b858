"""The Auto API: the same vectors as ours, the folder written again, refusals; and ``import proclip`` stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

import proclip
from proclip.errors import ProclipError
from proclip.integrations import when_imported
from proclip.integrations.transformers import ProCLIPModel
from proclip.integrations.transformers_config import ProCLIPConfig
from proclip.models.proclip import ProCLIP


@pytest.fixture(scope="module")
def auto(tiny_proclip_path: Path) -> ProCLIPModel:
    return AutoModel.from_pretrained(tiny_proclip_path)


@pytest.fixture(scope="module")
def picture(tiny_world: Path) -> Image.Image:
    return Image.open(next((tiny_world / "images").glob("*.png"))).convert("RGB")


def test_auto_model_is_ours(auto: ProCLIPModel, tiny_proclip_path: Path, picture: Image.Image) -> None:
    ours = ProCLIP.from_pretrained(tiny_proclip_path)
    assert isinstance(auto, ProCLIPModel) and not auto.training
    assert isinstance(AutoConfig.from_pretrained(tiny_proclip_path), ProCLIPConfig)
    assert auto.state_dict().keys() == ours.state_dict().keys()
    try:
        processor = AutoImageProcessor.from_pretrained(tiny_proclip_path)
        pixels = processor(picture, return_tensors="pt").pixel_values
    except ImportError:  # transformers 5.17 has this class only beside torchvision
        pixels = ours.pixel_values([picture])
    texts = ["a red bar", "ein grünes Quadrat"]
    with torch.inference_mode():
        output = auto(pixel_values=pixels, texts=texts)
        features = auto.get_image_features(pixels).pooler_output
        embeds = ours.embedder.encode(texts).embeds
        from_embeds = auto.get_text_features(llm_embeds=embeds).pooler_output
        assert torch.equal(from_embeds, auto.get_text_features(texts=texts).pooler_output)
    torch.testing.assert_close(output.image_embeds, ours.encode_image([picture]), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, ours.encode_text(texts), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(features, dim=-1), output.image_embeds)
    cosine = ours.similarity(output.image_embeds, output.text_embeds)
    torch.testing.assert_close(output.logits_per_image, float(ours.logit_scale.detach().exp()) * cosine)
    torch.testing.assert_close(output.logits_per_text, output.logits_per_image.T)
    assert auto(pixel_values=pixels).text_embeds is None


def test_round_trip(auto: ProCLIPModel, picture: Image.Image, tmp_path: Path) -> None:
    auto.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(str(tmp_path / "again"), dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and again.logit_scale.dtype == torch.bfloat16
    assert again.get_text_features(texts="a").pooler_output.dtype == torch.bfloat16
    ours = ProCLIP.from_pretrained(tmp_path / "again")
    assert torch.equal(ours.encode_image([picture]), auto.model.encode_image([picture]))
    doubled = {name: 2 * tensor for name, tensor in auto.state_dict().items()}
    before = auto.logit_scale.item()
    auto.save_pretrained(tmp_path / "doubled", state_dict=doubled)
    assert auto.logit_scale.item() == before
    assert ProCLIP.from_pretrained(tmp_path / "doubled").logit_scale.item() == 2 * before
    with torch.no_grad():
        auto.logit_scale.add_(0.125)
    assert auto.model.logit_scale.item() == before + 0.125  # one model, not two
    with torch.no_grad():
        auto.logit_scale.sub_(0.125)


def test_refusals(auto: ProCLIPModel, tiny_proclip_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no argument quantization_config"):
        AutoModel.from_pretrained(tiny_proclip_path, quantization_config={"a": 1})
    with pytest.raises(ProclipError, match="one device for the whole model"):
        AutoModel.from_pretrained(tiny_proclip_path, device_map={"image_tower": "cpu"})
    for device in ("gpu", "balanced", {"": "disk"}, 99):
        with pytest.raises(ProclipError, match=r"^device_map takes 'auto' or one device for the whole model: device"):
            AutoModel.from_pretrained(tiny_proclip_path, device_map=device)
    for dtype in ("float99", "load", torch.int8):
        with pytest.raises(ProclipError, match=r"dtype .* is not known: float32, float16, bfloat16 are"):
            AutoModel.from_pretrained(tiny_proclip_path, dtype=dtype)
    with pytest.raises(ProclipError, match="no argument force_download"):
        AutoModel.from_pretrained(tiny_proclip_path, force_download=True)
    with pytest.raises(ProclipError, match="llm_embeds or texts, one of them"):
        auto.get_text_features()
    with pytest.raises(ProclipError, match="use from_pretrained"):
        AutoModel.from_config(auto.config)
    with pytest.raises(ProclipError, match="logit_scale is missing"):
        auto.save_pretrained(tmp_path / "x", state_dict={})


def test_from_the_hubs_cache(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []
    real = huggingface_hub.snapshot_download

    def watched(name: str, **arguments: Any) -> str:
        asked.append(arguments)
        return real(name, **arguments)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watched)
    auto = AutoModel.from_pretrained("me/mine", cache_dir=hub_cache, local_files_only=True, token="hf_secret")
    given = {"cache_dir": hub_cache, "local_files_only": True, "token": "hf_secret"}
    assert len(asked) == 1 and given.items() <= asked[0].items()
    (snapshot,) = hub_cache.glob("models--me--mine/snapshots/*")
    assert auto.model.loaded_from == f"me/mine@{snapshot.name}" == auto.config.loaded_from
    with pytest.raises(ProclipError, match="'me/mine' is neither a folder nor a checkpoint that the hub gives"):
        ProCLIPModel.from_pretrained("me/mine", cache_dir=hub_cache / "other", local_files_only=True)


slow = pytest.mark.slow
EITHER_ORDER = [
    "import proclip; from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[1])\n"
    "assert 'proclip.models.proclip' not in sys.modules; from transformers import AutoModel",  # a config needs no model
    pytest.param("from transformers import AutoConfig; import proclip; from transformers import AutoModel", marks=slow),
    pytest.param("from transformers import AutoConfig, AutoModel; import proclip", marks=slow),
]


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error:proclip could not:RuntimeWarning", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("imports", EITHER_ORDER, ids=["proclip first", "between", "transformers first"])
def test_import_registers(imports: str, tiny_proclip_path: Path) -> None:
    code = (
        f"import sys; {imports}\n"
        "from proclip.integrations.when_imported import AUTO_MODEL, Hook\n"
        "print(type(AutoConfig.from_pretrained(sys.argv[1])).__name__, end=' ')\n"
        "print(type(AutoModel.from_pretrained(sys.argv[1])).__name__, end=' ')\n"
        "print([f for f in sys.meta_path if isinstance(f, Hook)], type(sys.modules[AUTO_MODEL].__loader__).__name__)"
    )
    assert run_python(code, str(tiny_proclip_path)) == "ProCLIPConfig ProCLIPModel [] SourceFileLoader"


def test_threads_that_import_at_once_see_it_registered(tiny_proclip_path: Path) -> None:
    """Some import our side, some transformers'; nobody waits for ever, nobody sees AutoModel without our model."""
    code = """
import proclip, sys, threading
import torch  # whole: threads that import it at once can wait for each other, whoever they are
import transformers
start, seen = threading.Barrier(8), []

def work(number):
    start.wait()
    if number % 4 == 1:
        import proclip.integrations.transformers
    elif number % 4 == 2:
        from transformers import CLIPModel
    elif number % 4 == 3:
        from transformers import AutoConfig
        assert type(AutoConfig.from_pretrained(sys.argv[1])).__name__ == "ProCLIPConfig"
    from transformers import AutoModel
    seen.append(type(AutoModel.from_pretrained(sys.argv[1])).__name__)

threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
print(len(seen), set(seen))
"""
    assert run_python(code, str(tiny_proclip_path)) == "8 {'ProCLIPModel'}"


def test_a_failure_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(when_imported.REGISTRARS, "json", (".transformers_config", "no_such_function"))
    with pytest.warns(RuntimeWarning, match="could not register with json.*no_such_function"):
        when_imported.Hook().register("json")


def test_by_hand(auto: ProCLIPModel, tiny_proclip_path: Path) -> None:
    proclip.register_auto()
    proclip.register_auto()
    assert type(AutoModel.from_pretrained(tiny_proclip_path)) is type(auto)
