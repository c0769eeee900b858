"""The command: any model served as it encodes, keys, the process from its start to its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from serving import data_url, running

from proclip.cli import main
from proclip.errors import ProclipError
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.models.zero_shot import build_zero_shot_classifier
from proclip.runs.serve import open_served, read_key

TEXTS = ["a red square", "blau", "a drawing of a bar " * 30]


@pytest.fixture(scope="module")
def served(tiny_proclip_path: Path) -> Any:
    return open_served(str(tiny_proclip_path), "cpu", "tiny")


def test_vectors_and_classes_are_those_of_the_model(served: Any, tiny_proclip_path: Path, tiny_world: Path) -> None:
    model = ProCLIP.from_pretrained(tiny_proclip_path)
    files = sorted((tiny_world / "images").glob("*.png"))[:5]
    images = [data_url(path.read_bytes()) for path in files]
    with running(served, index=None) as client:
        inputs = [*TEXTS, *({"image": image} for image in images)]
        _, answer = client.post("/v1/embeddings", {"input": inputs})
        vectors = np.asarray([row["embedding"] for row in answer["data"]])
        assert np.allclose(vectors[:3], model.encode_text(TEXTS), atol=1e-5)
        assert np.allclose(vectors[3:], model.encode_image(files), atol=1e-5)
        counts = model.embedder.encode(TEXTS).tokens
        assert counts is not None
        assert answer["usage"]["prompt_tokens"] == int(counts.sum())
        labels, templates = ["red", "blue"], ["a photo of {}", "{} on white"]
        asked = {"input": [{"image": image} for image in images], "labels": labels, "templates": templates}
        _, classes = client.post("/v1/classify", asked)
        classifier = model.zero_shot_classifier(labels, templates)
        chances = (model.logit_scale.exp() * model.encode_image(files) @ classifier).softmax(dim=1)
        for row, expected in zip(classes["data"], chances, strict=True):
            told = {one["label"]: one["probability"] for one in row["predictions"]}
            assert [told[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-4)


def test_another_clip_is_served_too(tiny_clip_path: Path, tiny_world: Path) -> None:
    clip = load_clip(str(tiny_clip_path))
    served = open_served(str(tiny_clip_path), "cpu")
    assert served.name == tiny_clip_path.name
    texts = served.encode_texts(["a red square", "square " * 100])
    encoded = clip.encode(["a red square", "square " * 100])
    assert np.allclose(texts.embeds, encoded.embeds, atol=1e-6)
    assert list(texts.cut) == [False, True]
    assert list(texts.tokens) == encoded.tokens.tolist()  # type: ignore[union-attr]
    classes = build_zero_shot_classifier(lambda t: clip.encode(t).embeds, ["red"], ["{}"])
    assert np.allclose(served.encode_labels(["red"]).embeds, classes.T, atol=1e-6)
    assert served.logit_scale == pytest.approx(clip.logit_scale)


def test_a_model_without_its_llm_serves_pictures(tiny_proclip_path: Path, tmp_path: Path, tiny_world: Path) -> None:
    folder = tmp_path / "run" / "model"
    shutil.copytree(tiny_proclip_path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["embedder"]["model"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    served = open_served(str(folder), "cpu")
    assert served.name == "run"
    assert "gone" in served.no_texts
    with running(served, index=None) as client:
        image = {"image": data_url((tiny_world / "images" / "red-bar.png").read_bytes())}
        assert client.post("/v1/embeddings", {"input": image})[0] == 200
        status, answer = client.post("/v1/embeddings", {"input": "a"})
        assert status == 400
        assert str(tmp_path) not in json.dumps(answer)
    with pytest.raises(ProclipError, match=r"nowhere' is neither .*: there is no such folder$"):
        open_served(str(tmp_path / "nowhere"), "cpu")
    config["embedder"] = json.loads((tiny_proclip_path / "config.json").read_text())["embedder"] | {"max_length": 7}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProclipError, match="not the one the adapter was trained with"):
        open_served(str(folder), "cpu")


def test_keys(tmp_path: Path) -> None:
    good, file = "0123456789abcdef", tmp_path / "key"
    assert read_key(None, {}) is None
    assert read_key(None, {"PROCLIP_API_KEY": good}) == good
    file.write_text(f"{good}\n")
    assert read_key(file, {"PROCLIP_API_KEY": "another"}) == good
    for bad in ("", "short", "two words of length", "ümläut-of-some-length"):
        with pytest.raises(ProclipError) as caught:
            read_key(None, {"PROCLIP_API_KEY": bad})
        assert not bad or bad not in str(caught.value)
    with pytest.raises(ProclipError, match="cannot be read"):
        read_key(tmp_path / "nothing", {})


def test_what_is_wrong_is_told_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proclip.runs.serve.open_served", lambda *_: pytest.fail("the model is loaded"))
    for arguments, said in {
        ("--port", "99999"): "--port 99999: a number from 0 (any that is free) to 65535 is wanted",
        ("--port", "-1"): "--port -1: a number from 0",
        ("--host", ""): "--host is empty",
        ("--host", "a" * 64): "cannot listen on aaa",
        ("--port", "0", "--index", str(tmp_path)): f"{tmp_path} is no index",
        ("--port", "0", "--device", "abacus"): "device 'abacus' is not to be had here",
        ("--set", "pixels=400000000"): "pixels is 400000000, and Pillow decodes 178956970 at most",
    }.items():
        assert main(["serve", "--model", "any", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("proclip: error: ") and error.count("\n") == 1 and said in error


def test_an_unknown_limit_is_one_line(capsys: pytest.CaptureFixture[str], tiny_proclip_path: Path) -> None:
    assert main(["serve", "--model", str(tiny_proclip_path), "--set", "pixel=5"]) == 2
    assert "unknown key 'pixel': did you mean 'pixels'" in capsys.readouterr().err
    assert main(["serve", "--model", str(tiny_proclip_path), "--set", "k=0"]) == 2
    assert "k must be above 0" in capsys.readouterr().err


def test_the_process_ends_when_told_with_all_answered(tiny_proclip_path: Path, request: pytest.FixtureRequest) -> None:
    """SIGTERM while requests run: each is answered, the port closes, the exit status is 0."""
    command = [sys.executable, "-m", "proclip.cli", "serve", "--model", str(tiny_proclip_path), "--port", "0"]
    key = "0123456789abcdef"
    environment = {**os.environ, "PROCLIP_API_KEY": key}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    request.addfinalizer(process.kill)
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", said)):
        line = process.stderr.readline()
        assert line, said
        said += line
    port, statuses = int(found[1]), []
    body = json.dumps({"input": ["a long text of many words " * 40] * 80})
    begun = threading.Barrier(4, timeout=60)

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", "/v1/embeddings", body, headers)
        begun.wait()
        statuses.append(connection.getresponse().status)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    probe = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    probe.request("GET", "/healthz")
    assert probe.getresponse().status == 200  # the requests before it have been read
    probe.close()
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(120)
    with process.stderr:
        said += process.stderr.read()
    assert process.wait(60) == 0, said
    assert statuses == [200, 200, 200]
    assert "Traceback" not in said
    assert key not in said
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/healthz")


def test_an_index_is_searched_and_one_of_another_model_refused(
    tiny_proclip_path: Path, tiny_clip_path: Path, tiny_world: Path, tmp_path: Path, served: Any
) -> None:
    search = pytest.importorskip("proclip.search")
    from proclip.runs.serve import served_index

    model = ProCLIP.from_pretrained(tiny_proclip_path)
    search.update_index(tmp_path / "index", [tiny_world / "images"], model)
    index = served_index(search.Index.open(tmp_path / "index"), served)
    with running(served, index=index) as client:
        _, answer = client.post("/v1/search", {"text": "a red square", "k": 4})
        with search.Index.open(tmp_path / "index", model) as direct:
            expected = direct.search(text="a red square", k=4)
        assert [hit["name"] for hit in answer["data"]] == [hit.path.name for hit in expected]
        assert [hit["score"] for hit in answer["data"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert str(tiny_world) not in json.dumps(answer)
        status, content, _ = client.send("GET", f"/v1/thumbnails/{answer['data'][0]['id']}")
        assert status == 200
        assert content[:4] == b"\x89PNG"
        assert client.get("/v1/models")[1]["data"][0]["pictures"] == len(index)
    with pytest.raises(ProclipError, match="was made with another model"):
        served_index(search.Index.open(tmp_path / "index"), open_served("mini-clip", "cpu"))


def test_pictures_of_another_mode_are_prepared(served: Any) -> None:
    assert served.encode_images([served.prepare_image(Image.new("RGB", (5, 9)))]).shape == (1, served.dim)
