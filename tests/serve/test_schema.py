"""The OpenAPI description against the server: whatever fits it, and whatever does not, gets an answer that fits it."""

from __future__ import annotations

from typing import Any

import pytest
from serving import Client

STATUSES = {"/v1/search": {"200", "400", "401", "404", "408", "413", "429", "500", "504"}}


def test_the_description_lists_what_can_be_answered(server: Client) -> None:
    schema = server.get("/openapi.json")[1]
    assert set(schema["paths"]) == {
        "/v1/models", "/v1/embeddings", "/v1/search", "/v1/classify", "/v1/explain", "/v1/thumbnails/{id}",
        "/healthz", "/metrics",
    }  # fmt: skip
    for path, statuses in STATUSES.items():
        assert set(schema["paths"][path]["post"]["responses"]) == statuses
    assert "ValidationError" not in schema["components"]["schemas"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Client) -> None:
    schemathesis: Any = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            def call(case: Any) -> None:
                # no schema can say which strings are pictures, so that some that fit it are refused
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            try:
                call()
            except Unsatisfiable:  # an operation without a body and parameters has nothing that could be wrong
                assert not operation.body
