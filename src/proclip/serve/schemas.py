"""Requests and answers as they stand in ``/openapi.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from ..models.weighted_query import MOST_WEIGHT

TEXT = {"type": "string", "minLength": 1}
ITEM = {
    "anyOf": [
        TEXT,
        {"type": "object", "required": ["text"], "properties": {"text": TEXT}, "additionalProperties": False},
        {"type": "object", "required": ["image"], "properties": {"image": TEXT}, "additionalProperties": False},
    ]
}
Inputs = Annotated[
    Any,
    WithJsonSchema({"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]}),
    Field(
        description='A text; {"text": "..."}; {"image": "data:image/png;base64,..."} (bare base64 is taken too); or a '
        "list of these. Token numbers are refused."
    ),
]
Picture = Annotated[str, Field(min_length=1, description="data:image/TYPE;base64,... or bare base64; never fetched")]
Weight = Annotated[float, Field(ge=0, le=MOST_WEIGHT)]
Model = Annotated[str | None, Field(description="what /v1/models lists; left out, it is that one")]


class Request(BaseModel):
    """A field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class EmbeddingsRequest(Request):
    """Texts and pictures to vectors."""

    input: Inputs
    model: Model = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64: of float32, least significant byte first")
    ] = "float"
    dimensions: Annotated[int | None, Field(description="may only be the width that the model has")] = None
    user: Annotated[str | None, Field(description="taken and not used")] = None


class Weights(Request):
    """Of the parts of a query; each vector is multiplied by its weight, and what is not wanted is subtracted."""

    text: Weight = 1.0
    image: Weight = 1.0
    minus: Weight = 1.0


class SearchRequest(Request):
    """A text, a picture, or both; perhaps less something."""

    text: str | None = None
    image: Picture | None = None
    minus: Annotated[str | None, Field(description="a text: what is not wanted")] = None
    weights: Weights = Weights()
    k: Annotated[int, Field(ge=1)] = 10
    model: Model = None


class ClassifyRequest(Request):
    """Pictures by class names, zero-shot."""

    input: Inputs
    labels: Annotated[list[str], Field(min_length=1)]
    templates: Annotated[list[str], Field(min_length=1, description="each with {} where the class name goes")] = [
        "a photo of {}"
    ]
    model: Model = None


class ExplainRequest(Request):
    """A text, and a picture: one that is sent, or the id of one that a search found."""

    text: str
    image: Picture | None = None
    id: Annotated[str | None, Field(description="of a search's answer")] = None
    model: Model = None


class Usage(BaseModel):
    """What was read: tokens of texts; pictures count none."""

    prompt_tokens: int
    total_tokens: int
    truncated: Annotated[int, Field(description="texts that were longer than the model reads, and lost their end")]


class Embedding(BaseModel):
    """Of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class FoundPicture(BaseModel):
    """A picture that was found; GET /v1/thumbnails/{id} shows it."""

    id: str
    name: str
    score: Annotated[float, Field(description="cosine with the query")]


class SearchAnswer(BaseModel):
    """Best first."""

    object: Literal["list"] = "list"
    data: list[FoundPicture]
    model: str
    usage: Usage


class Prediction(BaseModel):
    """One class."""

    label: str
    score: Annotated[float, Field(description="cosine")]
    probability: float | None


class Classification(BaseModel):
    """Of one picture, likeliest class first."""

    object: Literal["classification"] = "classification"
    index: int
    prediction: str
    score: Annotated[float, Field(description="probability of the prediction; its cosine where there is none")]
    predictions: list[Prediction]


class ClassifyAnswer(BaseModel):
    """In the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Classification]
    model: str
    activation: Annotated[
        Literal["softmax", "sigmoid", "none"],
        Field(description="softmax: probabilities are shares; sigmoid: each class's own; none: there are none"),
    ]


class Part(BaseModel):
    """A part of the text, from a character (code point) to the one after its last."""

    start: int
    end: int
    text: str
    effect: Annotated[float, Field(description="cosine of the whole text less that of the text without this part")]


class ExplainAnswer(BaseModel):
    """What each part of a text does to its likeness with a picture."""

    score: float
    parts: list[Part]
    model: str
    usage: Usage


class ModelCard(BaseModel):
    """The model that is served, and what can be asked of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    dimensions: int
    texts: Annotated[bool, Field(description="whether texts can be encoded")]
    pictures: Annotated[int | None, Field(description="in the index; null where there is none")]
    limits: dict[str, int]


class ModelsAnswer(BaseModel):
    """One model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether requests are answered."""

    status: Literal["ok"] = "ok"


class ErrorDetail(BaseModel):
    """What is wrong, in one line."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Of every status from 400."""

    error: ErrorDetail
