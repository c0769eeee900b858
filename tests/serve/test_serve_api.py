"""What the API answers: the shapes that existing clients read, and one clear line for everything else."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import COLOURS, Client, FakeEncoder, data_url, png, running, text_vector, unit

PNG = data_url(png())


def embeddings(server: Client, **values: Any) -> tuple[int, Any]:
    return server.post("/v1/embeddings", values)


def error_of(answer: tuple[int, Any], status: int = 400) -> str:
    assert answer[0] == status, answer
    assert set(answer[1]) == {"error"}
    assert set(answer[1]["error"]) == {"message", "type", "param", "code"}
    message: str = answer[1]["error"]["message"]
    assert message
    assert "\n" not in message
    assert len(message) <= 300
    assert "/secret" not in message
    return message


def test_a_text_a_list_and_pictures(server: Client) -> None:
    status, one = embeddings(server, input="a red car")
    assert status == 200
    assert np.allclose(one["data"][0]["embedding"], unit(text_vector("a red car")), atol=1e-6)
    assert one["usage"] == {"prompt_tokens": 3, "total_tokens": 3, "truncated": 0}
    assert (one["object"], one["model"], one["data"][0]["object"]) == ("list", "fake", "embedding")
    bare = base64.b64encode(png("blue")).decode()
    mixed = ["a red car", {"image": PNG}, {"text": "a dog"}, {"image": bare}]
    status, many = embeddings(server, input=mixed, model="fake", user="someone")
    vectors = np.asarray([row["embedding"] for row in many["data"]])
    assert [row["index"] for row in many["data"]] == [0, 1, 2, 3]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(vectors[[0, 2]], unit([text_vector("a red car"), text_vector("a dog")]), atol=1e-6)
    assert vectors[1].argmax() == 0
    assert vectors[3].argmax() == 2
    assert many["usage"]["total_tokens"] == 5


def test_base64_is_of_float32(server: Client) -> None:
    _, floats = embeddings(server, input="one")
    _, coded = embeddings(server, input="one", encoding_format="base64", dimensions=8)
    read = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    assert np.array_equal(read, np.asarray(floats["data"][0]["embedding"], np.float32))


def test_what_was_cut_is_told(server: Client) -> None:
    _, answer = embeddings(server, input=["short", "long " * 60])
    assert answer["usage"]["truncated"] == 1


def test_the_openai_client_reads_it(server: Client) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    with client:
        assert [model.id for model in client.models.list()] == ["fake"]
        answer = client.embeddings.create(model="fake", input=["a red car", "a dog"])  # asks for base64 by itself
        assert np.allclose(answer.data[0].embedding, unit(text_vector("a red car")), atol=1e-6)
        assert answer.usage.prompt_tokens == 5
        with pytest.raises(openai.BadRequestError, match="token numbers"):
            client.embeddings.create(model="fake", input=[[1, 2, 3]])
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.embeddings.create(model="text-embedding-3-small", input="a")


def test_models(server: Client) -> None:
    _, answer = server.get("/v1/models")
    (card,) = answer["data"]
    assert (card["id"], card["dimensions"], card["texts"], card["pictures"]) == ("fake", 8, True, 3)
    assert card["limits"]["k"] == 100


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "input: Field required"),
        ({"input": []}, "input: the list is empty"),
        ({"input": ""}, "the text is empty"),
        ({"input": ["a", " \n"]}, "input.1: the text is empty"),
        ({"input": None}, "input: a text, a list of texts"),
        ({"input": 5}, "input: a text, a list of texts"),
        ({"input": [1, 2]}, "token numbers"),
        ({"input": [[1, 2], [3]]}, "token numbers"),
        ({"input": ["a", None]}, "input.1: a text"),
        ({"input": ["a", {}]}, "input.1: exactly one of"),
        ({"input": [{"text": "a", "image": "b"}]}, "input.0: exactly one of"),
        ({"input": [{"text": 5}]}, "input.0.text: a string"),
        ({"input": [{"video": "x"}]}, "input.0: exactly one of"),
        ({"input": ["a"] * 257}, "257 inputs, at most 256"),
        ({"input": "a" * 20_001}, "20001 characters, at most 20000"),
        ({"input": PNG}, "a picture is sent as"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format: Input should be 'float' or 'base64'"),
        ({"input": "a", "dimensions": 4}, "dimensions: vectors have 8 dimensions here"),
        ({"input": "a", "dimensions": "8"}, "dimensions: Input should be a valid integer"),
        ({"input": "a", "dimensions": float("nan")}, "dimensions"),
        ({"input": "a", "truncate": True}, "truncate: there is no such field"),
        ({"input": {"image": "https://example.org/a.png"}}, "nothing is fetched"),
        ({"input": {"image": "file:///etc/passwd"}}, "nothing is fetched"),
        ({"input": {"image": "/etc/passwd"}}, "not base64"),
        ({"input": {"image": "etc/passwd++"}}, "not a picture that can be read"),
        ({"input": {"image": "../../etc/passwd"}}, "not base64"),
        ({"input": {"image": "data:text/html;base64,AAAA"}}, "must begin with data:image"),
        ({"input": {"image": "data:image/png,AAAA"}}, "must begin with data:image"),
        ({"input": {"image": "data:image/png;base64,"}}, "the picture is empty"),
        ({"input": {"image": "data:image/png;base64,!!!!"}}, "it is not base64"),
        ({"input": {"image": "data:image/svg+xml;base64,PHN2Zy8+"}}, "not a picture that can be read"),
        ({"input": {"image": data_url(png()[:60])}}, "broken or cut off"),
        ({"input": {"image": data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")}}, "not a picture"),
        ({"input": {"image": data_url(png(size=(1, 150)))}}, "sides may differ 100 times at most"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_bad_input_is_one_line(server: Client, values: dict[str, Any], said: str) -> None:
    assert said in error_of(embeddings(server, **values))


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '"text"', "null", "[" * 100_000, '{"input": "\\ud800"}', '{"input": NaN}', "\x00\xff", "9" * 5000],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_request_is_one_line(server: Client, body: str) -> None:
    status, answer, _ = server.send("POST", "/v1/embeddings", body, {"content-type": "application/json"})
    error_of((status, answer))


def test_json_must_be_called_json(server: Client) -> None:
    """A page of another origin can send a form or plain text without asking; neither is read."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, answer, _ = server.send("POST", "/v1/embeddings", '{"input": "a"}', {"content-type": kind})
        assert "sent as application/json" in error_of((status, answer))


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes whose header promises that many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(7000, 7000), (12_000, 12_000), (50_000, 50_000)])
def test_a_bomb_is_refused_before_it_is_decoded(
    server: Client, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    said = error_of(embeddings(server, input={"image": data_url(bomb(*size))}))
    assert f"{size[0]} x {size[1]}" in said or str(size[0] * size[1]) in said
    assert "40000000 pixels" in said


def test_pictures_are_taken_upright_and_on_white(server: Client) -> None:
    seen: list[Any] = []
    half = Image.new("RGB", (40, 20), "white")
    half.paste((220, 30, 30), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    stream = BytesIO()
    half.save(stream, "JPEG", exif=exif, quality=95)
    clear = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(clear, "PNG")
    encoder = FakeEncoder()
    prepare = encoder.prepare_image
    encoder.prepare_image = lambda image: (seen.append(image), prepare(image))[1]  # type: ignore[method-assign]
    with running(encoder, index=None) as client:
        for content in (stream.getvalue(), clear.getvalue(), png(kind="GIF"), png(kind="BMP"), png(kind="WEBP")):
            assert embeddings(client, input={"image": data_url(content)})[0] == 200
    assert seen[0].size == (20, 40)
    assert seen[0].getpixel((10, 5))[1] < 80
    assert seen[0].getpixel((10, 35))[1] > 200
    assert seen[1].getpixel((0, 0)) == (255, 255, 255)


def test_search(server: Client) -> None:
    status, answer = server.post("/v1/search", {"text": "something red", "k": 2})
    assert status == 200
    assert [hit["name"] for hit in answer["data"]] == ["red.png", "green.png"]
    assert answer["data"][0]["score"] > answer["data"][1]["score"]
    assert "secret" not in json.dumps(answer)
    _, by_picture = server.post("/v1/search", {"image": data_url(png("blue"))})
    assert by_picture["data"][0]["name"] == "blue.png"
    assert len(by_picture["data"]) == 3


def test_search_by_parts_is_their_weighted_sum(server: Client) -> None:
    weights = {"text": 0.5, "image": 2.0, "minus": 0.25}
    values = {"text": "red", "image": data_url(png("blue")), "minus": "green", "weights": weights}
    _, answer = server.post("/v1/search", values)
    blue = unit([*np.asarray((0, 0, 255)) / 255, 0.1, 0, 0, 0, 0])
    query = unit(0.5 * unit(text_vector("red")) + 2 * blue - 0.25 * unit(text_vector("green")))
    expected = {
        f"{name}.png": float(unit([*np.asarray(colour) / 255, 0.1, 0, 0, 0, 0]) @ query)
        for name, colour in COLOURS.items()
    }
    assert {hit["name"]: hit["score"] for hit in answer["data"]} == pytest.approx(expected, abs=1e-5)
    _, without = server.post("/v1/search", {"text": "red green", "minus": "green"})
    assert without["data"][0]["name"] == "red.png"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "text: a text, an image or both"),
        ({"minus": "a"}, "text: a text, an image or both"),
        ({"text": " "}, "text: the text is empty"),
        ({"text": "a", "minus": ""}, "minus: the text is empty"),
        ({"text": "a", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"text": "a", "k": 101}, "k: at most 100"),
        ({"text": "a", "k": 10**30}, "k: at most 100"),
        ({"text": "a", "k": 1.5}, "k: Input should be a valid integer"),
        ({"text": "a", "k": True}, "k: Input should be a valid integer"),
        ({"text": "a", "weights": {"text": float("nan")}}, "weights.text: Input should be"),
        ({"text": "a", "weights": {"text": float("inf")}}, "weights.text: Input should be"),
        ({"text": "a", "weights": {"text": -1}}, "weights.text: Input should be greater"),
        ({"text": "a", "weights": {"texts": 1}}, "weights.texts: there is no such field"),
        ({"text": "a", "minus": "a"}, "weights: the parts of the query cancel"),
        ({"text": "a", "weights": {"text": 0}}, "weights: only what is not wanted is asked"),
        ({"text": "a", "minus": "b", "weights": {"text": 0}}, "weights: only what is not wanted is asked"),
        ({"text": "a", "weights": {"minus": 10.5}}, "weights.minus: Input should be less than or equal to 10"),
        ({"text": ["a"]}, "text: Input should be a valid string"),
        ({"text": "a", "image": "http://a/b.png"}, "image: nothing is fetched"),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else None,
)
def test_bad_searches(server: Client, values: dict[str, Any], said: str) -> None:
    assert said in error_of(server.post("/v1/search", values))


def test_thumbnails_are_of_what_was_found_and_nothing_else(server: Client) -> None:
    _, answer = server.post("/v1/search", {"text": "red", "k": 1})
    status, content, headers = server.send("GET", f"/v1/thumbnails/{answer['data'][0]['id']}")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert content == png(COLOURS["red"])
    for path in ("abc", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00", "a" * 65):
        status, answer, _ = server.send("GET", f"/v1/thumbnails/{path}")
        assert status in (400, 404)
        error_of((status, answer), status)


def test_classes_are_the_mean_of_their_prompts(server: Client) -> None:
    labels, templates = ["red", "blue", "dog"], ["a photo of {}", "{} on white"]
    values = {"input": [{"image": data_url(png("red"))}, {"image": data_url(png("blue"))}], "labels": labels}
    status, answer = server.post("/v1/classify", {**values, "templates": templates})
    assert status == 200
    assert answer["activation"] == "softmax"
    assert [row["prediction"] for row in answer["data"]] == ["red", "blue"]
    classes = unit([unit([text_vector(t.replace("{}", label)) for t in templates]).mean(axis=0) for label in labels])
    cosines = classes @ unit([1, 0, 0, 0.1, 0, 0, 0, 0])
    chances = np.exp(np.exp(3.0) * cosines) / np.exp(np.exp(3.0) * cosines).sum()
    told = {row["label"]: row for row in answer["data"][0]["predictions"]}
    assert [told[label]["score"] for label in labels] == pytest.approx(cosines.tolist(), abs=1e-5)
    assert [told[label]["probability"] for label in labels] == pytest.approx(chances.tolist(), abs=1e-4)
    before = len(server.encoder.batches)
    server.post("/v1/classify", {**values, "templates": templates})
    assert [kind for kind, _ in server.encoder.batches[before:]] == ["image"]  # labels are kept


def test_a_bias_gives_each_class_its_own_probability_and_no_scale_none() -> None:
    values = {"input": {"image": data_url(png("red"))}, "labels": ["red", "red", "blue"]}
    with running(FakeEncoder(logit_bias=-10.0), index=None) as client:
        _, answer = client.post("/v1/classify", values)
        assert answer["activation"] == "sigmoid"
        first = answer["data"][0]["predictions"][0]
        assert first["probability"] == pytest.approx(1 / (1 + np.exp(10 - np.exp(3) * first["score"])), abs=1e-4)
    with running(FakeEncoder(logit_scale=None), index=None) as client:
        _, answer = client.post("/v1/classify", values)
        assert answer["activation"] == "none"
        assert answer["data"][0]["predictions"][0]["probability"] is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": []}, "labels: List should have at least 1 item"),
        ({"labels": ["a", ""]}, "labels.1: the text is empty"),
        ({"labels": ["a" * 501]}, "labels.0: the text has 501"),
        ({"labels": ["a"] * 1001}, "1001 labels"),
        ({"labels": ["a"] * 300, "templates": ["{}"] * 7}, "labels times templates"),
        ({"labels": ["a"], "templates": ["photo"]}, "templates.0: {} is wanted"),
        ({"labels": "a"}, "labels: Input should be a valid list"),
        ({"labels": ["a"], "input": "a text"}, "input: pictures are classified"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_bad_classes(server: Client, values: dict[str, Any], said: str) -> None:
    assert said in error_of(server.post("/v1/classify", {"input": {"image": PNG}, **values}))


def test_words_are_weighed_by_leaving_them_out(server: Client) -> None:
    text = "ein red Auto, 🚗 blue"
    status, answer = server.post("/v1/explain", {"text": text, "image": data_url(png("red"))})
    assert status == 200
    picture = unit([1, 0, 0, 0.1, 0, 0, 0, 0])
    whole = float(unit(text_vector(text)) @ picture)
    assert answer["score"] == pytest.approx(whole, abs=1e-5)
    parts = {part["text"]: part for part in answer["parts"]}
    assert list(parts) == ["ein", "red", "Auto", "blue"]
    assert all(text[part["start"] : part["end"]] == part["text"] for part in parts.values())
    without = float(unit(text_vector("ein Auto, 🚗 blue")) @ picture)
    assert parts["red"]["effect"] == pytest.approx(whole - without, abs=1e-5)
    assert parts["red"]["effect"] > 0 > parts["blue"]["effect"]
    _, found = server.post("/v1/search", {"text": "red", "k": 1})
    before = len(server.encoder.batches)
    _, by_id = server.post("/v1/explain", {"text": "red", "id": found["data"][0]["id"]})
    assert by_id["score"] == pytest.approx(found["data"][0]["score"], abs=1e-6)  # by the index's own vector
    _, by_id = server.post("/v1/explain", {"text": "a red car", "id": found["data"][0]["id"]})
    assert {kind for kind, _ in server.encoder.batches[before:]} == {"text"}
    assert max(by_id["parts"], key=lambda part: part["effect"])["text"] == "red"


def test_explain_wants_one_picture(server: Client) -> None:
    assert "exactly one" in error_of(server.post("/v1/explain", {"text": "a"}))
    assert "exactly one" in error_of(server.post("/v1/explain", {"text": "a", "id": "b", "image": PNG}))
    assert "search again" in error_of(server.post("/v1/explain", {"text": "a", "id": "b"}), 404)


def test_without_an_index_and_without_texts() -> None:
    with running(FakeEncoder(no_texts="the LLM at /secret/llm is missing"), index=None) as client:
        assert "start it with --index" in error_of(client.post("/v1/search", {"text": "a"}), 404)
        assert "pictures only" in error_of(embeddings(client, input="a text"))
        assert "pictures only" in error_of(client.post("/v1/classify", {"input": {"image": PNG}, "labels": ["a"]}))
        assert embeddings(client, input={"image": PNG})[0] == 200
        assert client.get("/v1/models")[1]["data"][0]["texts"] is False
