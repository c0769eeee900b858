"""The routes of the API: a request's fields checked, handed to the service, its answer put in shape."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, Path, Request, Response

from . import schemas
from .faults import Fault, bad
from .inputs import Input, check_model, check_text, check_texts, read_inputs
from .pictures import media_type
from .service import Embedded, Service

STATUSES = {
    400: "something in the request is wrong",
    401: "the key is missing or wrong",
    404: "no such model, picture or index",
    408: "the request took too long to come",
    413: "the request is too large",
    429: "too much is waiting; Retry-After says when to come again",
    500: "the server failed",
    504: "the request alone took too long",
}
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": words} for status, words in STATUSES.items()
}
router = APIRouter(prefix="/v1", responses=FAULTS)


async def of_app(request: Request) -> Service:  # no plain function: for each request it would be sent to a thread
    """The service of the app that a request reached."""
    service: Service = request.app.state.service
    return service


Of = Annotated[Service, Depends(of_app)]


def _usage(embedded: Embedded) -> schemas.Usage:
    return schemas.Usage(prompt_tokens=embedded.tokens, total_tokens=embedded.tokens, truncated=embedded.cut)


@router.get("/models")
async def models(request: Request, service: Of) -> schemas.ModelsAnswer:
    """The model that is served, the size of the index, and the limits of a request."""
    limits, encoder = service.limits, service.encoder
    told = ("body_bytes", "pixels", "text_chars", "inputs", "labels", "label_chars", "prompts", "k")
    card = schemas.ModelCard(
        id=encoder.name,
        created=request.app.state.started,
        owned_by="proclip",
        dimensions=encoder.dim,
        texts=not encoder.no_texts,
        pictures=await service.pictures(),
        limits={name: getattr(limits, name) for name in told},
    )
    return schemas.ModelsAnswer(data=[card])


@router.post("/embeddings", response_model=schemas.EmbeddingsAnswer)
async def embeddings(body: schemas.EmbeddingsRequest, service: Of) -> Response:
    """Vectors of texts and pictures, L2-normalised, in one space: their inner product is their likeness."""
    check_model(body.model, service.encoder.name)
    if body.dimensions not in (None, service.encoder.dim):
        raise bad("dimensions", f"vectors have {service.encoder.dim} dimensions here, and cannot be cut to fewer")
    async with service.in_time():
        embedded = await service.embed(read_inputs(body.input, service.limits))
    shown = [_vector(vector, body.encoding_format) for vector in embedded.vectors]
    data = [schemas.Embedding(index=place, embedding=vector) for place, vector in enumerate(shown)]
    answer = schemas.EmbeddingsAnswer(data=data, model=service.encoder.name, usage=_usage(embedded))
    return Response(answer.model_dump_json(), media_type="application/json")  # dumped once, not checked once more


def _vector(vector: Any, form: Literal["float", "base64"]) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    values: list[float] = np.asarray(vector, np.float32).tolist()
    return values


@router.post("/search")
async def search(body: schemas.SearchRequest, service: Of) -> schemas.SearchAnswer:
    """The pictures of the index that are nearest to a text, a picture, or both, less what is not wanted."""
    check_model(body.model, service.encoder.name)
    if body.k > service.limits.k:
        raise bad("k", f"at most {service.limits.k} pictures are returned")
    if service.index is None:
        raise Fault(404, "this server has no index of pictures: start it with --index")
    parts = _parts(body, service)
    async with service.in_time():
        ranked, embedded = await service.search(parts, body.k)
    data = [schemas.FoundPicture(id=one.id, name=one.name, score=one.score) for one in ranked]
    return schemas.SearchAnswer(data=data, model=service.encoder.name, usage=_usage(embedded))


def _parts(body: schemas.SearchRequest, service: Service) -> list[tuple[Input, float]]:
    if body.text is None and body.image is None:
        raise bad("text", "a text, an image or both are wanted")
    parts = []
    for name, sign in (("text", 1.0), ("minus", -1.0)):
        if (value := getattr(body, name)) is not None:
            text = check_text(value, name, service.limits.text_chars)
            parts.append((Input(name, text=text), sign * getattr(body.weights, name)))
    if body.image is not None:
        parts.append((Input("image", image=body.image), body.weights.image))
    return parts


@router.post("/classify")
async def classify(body: schemas.ClassifyRequest, service: Of) -> schemas.ClassifyAnswer:
    """Pictures by class names that are given with them (zero-shot): the mean of each name's prompts is its class."""
    check_model(body.model, service.encoder.name)
    limits = service.limits
    inputs = read_inputs(body.input, limits)
    if wrong := next((one for one in inputs if one.image is None), None):
        raise bad(wrong.param, "pictures are classified, not texts")
    if len(body.labels) > limits.labels:
        raise bad("labels", f"{len(body.labels)} labels, at most {limits.labels} are taken")
    if len(body.labels) * len(body.templates) > limits.prompts:
        raise bad("templates", f"labels times templates may be {limits.prompts} at most")
    check_texts(body.labels, "labels", limits.label_chars)
    check_texts(body.templates, "templates", limits.label_chars)
    for place, template in enumerate(body.templates):
        if "{}" not in template:
            raise bad(f"templates.{place}", "{} is wanted where the class name goes")
    async with service.in_time():
        cosines, chances = await service.classify(inputs, body.labels, body.templates)
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    if chances is not None:
        activation = "softmax" if service.encoder.logit_bias is None else "sigmoid"
    data = [
        _classification(place, body.labels, cosines[place], None if chances is None else chances[place])
        for place in range(len(inputs))
    ]
    return schemas.ClassifyAnswer(data=data, model=service.encoder.name, activation=activation)


def _classification(place: int, labels: Sequence[str], cosines: Any, chances: Any) -> schemas.Classification:
    rows = [
        schemas.Prediction(
            label=labels[c], score=float(cosines[c]), probability=None if chances is None else float(chances[c])
        )
        for c in np.argsort(-cosines, kind="stable")
    ]
    first = rows[0]
    score = first.score if first.probability is None else first.probability
    return schemas.Classification(index=place, prediction=first.label, score=score, predictions=rows)


@router.post("/explain")
async def explain(body: schemas.ExplainRequest, service: Of) -> schemas.ExplainAnswer:
    """What each word of a text does to its likeness with a picture: the text is encoded once more without it."""
    check_model(body.model, service.encoder.name)
    text = check_text(body.text, "text", service.limits.text_chars)
    if (body.image is None) == (body.id is None):
        raise bad("image", "exactly one of image and id is wanted")
    image = Input("image", image=body.image) if body.image is not None else str(body.id)
    async with service.in_time():
        score, effects, embedded = await service.explain(text, image)
    parts = [
        schemas.Part(start=part.start, end=part.end, text=text[part.start : part.end], effect=effect)
        for part, effect in effects
    ]
    return schemas.ExplainAnswer(score=score, parts=parts, model=service.encoder.name, usage=_usage(embedded))


PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/jpeg": {}, "image/png": {}, "image/webp": {}}}
}


@router.get("/thumbnails/{id}", response_class=Response, responses={**FAULTS, **PICTURE})
async def thumbnail(id: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")], service: Of) -> Response:
    """A picture that a search found lately, small."""
    content = await service.thumbnail(id)
    return Response(content, media_type=media_type(content), headers={"cache-control": "private, max-age=600"})
