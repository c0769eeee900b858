"""Keys, hosts, bodies, times: what is refused before, around and after the routes."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import Client, FakeEncoder, data_url, png, running

from proclip.errors import ProclipError
from proclip.serve import Limits
from proclip.serve.server import LOOPBACK_NAMES, bind, is_loopback, names_of

KEY = "a-key-of-some-length"


def held_encoder() -> tuple[FakeEncoder, threading.Event, threading.Event]:
    """A model that waits until it is let go on; whether it has begun, and what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def before(kind: str, items: Any) -> None:
        begun.set()
        go_on.wait(20)

    return FakeEncoder(before=before), begun, go_on


def test_without_the_key_nothing_is_answered_but_the_page(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(key=KEY) as client:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}, {"authorization": f"Basic {KEY}"}):
            for path in ("/v1/models", "/metrics", "/v1/thumbnails/abc", "/nothing"):
                status, answer, headers = client.send("GET", path, headers=given)
                assert status == 401
                assert headers["www-authenticate"] == "Bearer"
                assert answer["error"]["type"] == "authentication_error"
        assert client.get("/v1/models", authorization=f"Bearer {KEY}")[0] == 200
        assert client.get("/v1/models", authorization=f"bearer  {KEY}")[0] == 200
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/page/page.js"):
            assert client.get(path)[0] == 200
        schema = client.get("/openapi.json")[1]
        assert schema["paths"]["/v1/search"]["post"]["security"] == [{"key": []}]
        assert client.get("/page/../v1/models")[0] == 404
    assert KEY not in caplog.text


def test_a_name_that_leads_here_from_elsewhere_is_refused() -> None:
    with running(hosts=LOOPBACK_NAMES) as client:
        for host in ("localhost:9", "127.0.0.1", "[::1]:80", "LOCALHOST"):
            assert client.get("/v1/models", host=host)[0] == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
            assert client.get("/v1/models", host=host)[0] == 400


def test_no_other_origin_may_read_and_the_page_loads_nothing_from_elsewhere(server: Client) -> None:
    for method, path in (("GET", "/"), ("GET", "/v1/models"), ("OPTIONS", "/v1/search"), ("GET", "/nothing")):
        headers = server.send(method, path, headers={"origin": "https://evil.example"})[2]
        assert not [name for name in headers if name.startswith("access-control")]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/docs"):
        text = server.get(path)[1].decode()
        assert "//" not in text.replace("<!doctype", "")
        assert "<script>" not in text
        assert "style=" not in text


def test_a_body_that_is_too_large(server: Client) -> None:
    limits = Limits(body_bytes=2000, held_bytes=4000)
    with running(limits=limits) as client:
        assert client.post("/v1/embeddings", {"input": "a" * 1900})[0] == 200
        for size in (2100, 7000, 100_000):
            status, answer = client.post("/v1/embeddings", {"input": "a" * size})
            assert status == 413
            assert "more than 2000 bytes" in answer["error"]["message"]
        head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked"
        raw = f"{head}\r\n\r\n" + f"{1000:x}\r\n{'a' * 1000}\r\n" * 12 + "0\r\n\r\n"
        assert b" 413 " in exchange(client.port, raw.encode())
    ten_megabytes = {"input": "a " * (5 * 2**20)}
    status, answer = server.post("/v1/embeddings", ten_megabytes)
    assert status == 400
    assert "at most 20000 are taken" in answer["error"]["message"]


def exchange(port: int, content: bytes, seconds: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        return connection.recv(4096)


def test_a_body_that_does_not_come() -> None:
    with running(limits=Limits(body_timeout=0.1)) as client:
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        assert b" 408 " in exchange(client.port, head)
        assert client.get("/healthz")[0] == 200


def test_too_many_requests_and_too_many_bytes_are_429() -> None:
    encoder, begun, go_on = held_encoder()
    with running(encoder, Limits(requests=2)) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/v1/embeddings", {"input": "a"})
        second = pool.submit(client.post, "/v1/embeddings", {"input": "b"})
        assert begun.wait(10)
        until = time.monotonic() + 10
        while client.service.batcher.lanes["text"].inside < 2 and time.monotonic() < until:
            time.sleep(0.005)
        status, answer, headers = client.send("GET", "/v1/models")
        assert (status, headers["retry-after"]) == (429, "1")
        assert answer["error"]["type"] == "rate_limit_error"
        assert client.get("/healthz")[0] == 200  # whoever watches the server is answered
        go_on.set()
        assert first.result()[0] == second.result()[0] == 200
    limits = Limits(body_bytes=1000, held_bytes=1500)
    with running(limits=limits) as client, socket.create_connection(("127.0.0.1", client.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n" + b" " * 850)
        until = time.monotonic() + 10
        while (found := client.post("/v1/embeddings", {"input": "a" * 800}))[0] != 429:
            assert time.monotonic() < until
        assert "too much is being sent" in found[1]["error"]["message"]


def test_a_full_queue_is_429_and_the_rest_is_served() -> None:
    encoder, begun, go_on = held_encoder()
    limits = Limits(queue=300, inputs=200, prompts=300, batch=8)
    with running(encoder, limits) as client, ThreadPoolExecutor(2) as pool:
        running_now = pool.submit(client.post, "/v1/embeddings", {"input": ["a"] * 200})
        assert begun.wait(10)
        status, answer, headers = client.send(
            "POST", "/v1/embeddings", json.dumps({"input": ["b"] * 200}), {"content-type": "application/json"}
        )
        assert status == 429
        assert 1 <= int(headers["retry-after"]) <= 60
        assert "try again" in answer["error"]["message"]
        metrics = client.get("/metrics")[1].decode()
        assert 'proclip_queue_inputs{kind="text"} 200.0' in metrics
        assert 'proclip_requests_total{method="POST",route="/v1/embeddings",status="429"} 1.0' in metrics
        go_on.set()
        assert len(running_now.result()[1]["data"]) == 200
        metrics = client.get("/metrics")[1].decode()
        assert 'proclip_queue_inputs{kind="text"} 0.0' in metrics
        assert 'proclip_batch_inputs_count{kind="text"} 25.0' in metrics
        assert 'proclip_request_seconds_count{route="/v1/embeddings"} 2.0' in metrics
        assert "proclip_batch_seconds_bucket" in metrics


def test_time_is_bounded_and_says_whose_fault_it_was() -> None:
    encoder, _, go_on = held_encoder()
    with running(encoder, Limits(timeout=0.3)) as client, ThreadPoolExecutor(2) as pool:
        assert client.post("/v1/embeddings", {"input": "alone"})[0] == 504
        both = [pool.submit(client.post, "/v1/embeddings", {"input": text}) for text in "ab"]
        assert [one.result()[0] for one in both] == [429, 429]
        go_on.set()
        assert client.post("/v1/embeddings", {"input": "a"})[0] == 200


def test_work_for_a_client_that_went_is_dropped() -> None:
    encoder, begun, go_on = held_encoder()
    with running(encoder) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/embeddings", {"input": "first"})
        assert begun.wait(10)
        body = b'{"input": "nobody waits for this"}'
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            head = ["POST /v1/embeddings HTTP/1.1", "host: x", "content-type: application/json"]
            connection.sendall("\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body)
            lane, until = client.service.batcher.lanes["text"], time.monotonic() + 10
            while lane.inside < 2 and time.monotonic() < until:
                time.sleep(0.005)
            assert lane.inside == 2
        while lane.inside > 1 and time.monotonic() < until:
            time.sleep(0.005)
        assert lane.inside == 1
        go_on.set()
        assert first.result()[0] == 200
        assert encoder.batches == [("text", 1)]


def test_what_fails_unforeseen_is_one_line_without_details(caplog: pytest.LogCaptureFixture) -> None:
    def before(kind: str, items: Any) -> None:
        raise RuntimeError("cannot open /secret/weights")

    with running(FakeEncoder(before=before)) as client:
        status, answer = client.post("/v1/embeddings", {"input": ["a", "b"]})
        assert status == 500
        assert "secret" not in json.dumps(answer)
        assert client.get("/healthz")[0] == 200
        client.service.index.search = before  # type: ignore[union-attr, assignment]
        client.encoder.before = lambda kind, items: None
        status, answer = client.post("/v1/search", {"text": "a"})
        assert status == 500
        assert answer["error"]["message"] == "something failed here; the server's log says what"
    assert "/secret/weights" in caplog.text


def test_a_thumbnail_that_is_gone_is_404_without_its_path(server: Client) -> None:
    server.post("/v1/search", {"text": "red"})
    with running() as client:
        client.service.index.pictures = dict.fromkeys(client.service.index.pictures, b"")  # type: ignore[union-attr]
        _, found = client.post("/v1/search", {"text": "red", "k": 1})
        status, answer = client.get(f"/v1/thumbnails/{found['data'][0]['id']}")
        assert status == 404
        assert "secret" not in json.dumps(answer)


def test_the_model_runs_in_one_thread_and_requests_share_it() -> None:
    encoder = FakeEncoder(before=lambda kind, items: time.sleep(0.005))
    with running(encoder) as client, ThreadPoolExecutor(16) as pool:
        picture = {"image": data_url(png())}
        asked = [{"input": f"text {n}"} if n % 2 else {"input": picture} for n in range(64)]
        assert {one[0] for one in pool.map(lambda values: client.post("/v1/embeddings", values), asked)} == {200}
    assert len(encoder.threads) == 1
    assert len(encoder.batches) < 48


def test_limits_that_make_no_sense_are_refused() -> None:
    for values in ({"k": 0}, {"wait": -1.0}, {"queue": 100}, {"held_bytes": 5}):
        with pytest.raises(ProclipError, match=next(iter(values))):
            Limits(**values)  # type: ignore[arg-type]


def test_where_it_listens() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert names_of("0.0.0.0") is None
    assert names_of("127.0.0.2") == LOOPBACK_NAMES | {"127.0.0.2"}
    assert names_of("::1") == LOOPBACK_NAMES
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ProclipError, match=f"cannot listen on 127.0.0.1, port {port}"):
            bind("127.0.0.1", port)
