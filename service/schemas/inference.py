"""Questions to models and their answers: predictions in our own shape, embeddings in OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from service.schemas.base import Answer, Body


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


# The tokenizer's time grows with the square of a word's length, and models cut texts off long before these limits.
ClassName = Annotated[str, Field(max_length=500)]
Template = Annotated[str, Field(max_length=500)]
_MAX_TEXT_LENGTH = 2000
Images = Annotated[list[str], BeforeValidator(_list_of_one)]


class Question(Body):
    """What every question to a model says."""

    model: Annotated[str, Field(min_length=1)]
    """Name of a registered model; `GET /v1/models` lists them."""
    top_k: Annotated[int, Field(ge=1)] = 5
    """Predictions for each image, likeliest first; no more than there are classes."""


class ClassifyQuestion(Question):
    """Which of the model's own classes does each image show?"""


class ZeroShotQuestion(Question):
    """Which of these classes does each image show?"""

    class_names: Annotated[list[ClassName], BeforeValidator(_list_of_one)]
    """The classes to choose from, as they read in a prompt."""
    templates: Annotated[list[Template] | None, BeforeValidator(_list_of_one)] = None
    """Prompts with one `{}` for the class name each, or names of published sets (`imagenet`, `imagenet-simple`,
    `cifar10`); without any, those that the model was trained with."""


class ClassifyBody(ClassifyQuestion):
    """The JSON body of `/v1/classify`."""

    images: Images
    """One image or several, each as base64 of its file or as a `data:` URI."""


class ZeroShotBody(ZeroShotQuestion):
    """The JSON body of `/v1/zero-shot`."""

    images: Images
    """One image or several, each as base64 of its file or as a `data:` URI."""


class ImageInput(Body):
    """An image among the inputs of an embeddings request."""

    image: str
    """Base64 of its file, or a `data:` URI."""


def _read_input(value: Any) -> str | ImageInput:
    """One input, told apart by hand: a union's own errors name types instead of what to send."""
    if isinstance(value, str) and value.startswith("data:image/"):
        return ImageInput(image=value)
    if isinstance(value, str):
        if not 1 <= len(value) <= _MAX_TEXT_LENGTH:
            raise ValueError(f"a text may have 1 to {_MAX_TEXT_LENGTH} characters; this one has {len(value)}")
        return value
    if isinstance(value, dict) and set(value) == {"image"} and isinstance(value["image"], str):
        return ImageInput(image=value["image"])
    raise ValueError('an input is a text, {"image": BASE64} or a data:image/... URI; token numbers are not supported')


_INPUT_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _MAX_TEXT_LENGTH},
        {"type": "string", "pattern": "^data:image/"},
        ImageInput.model_json_schema(),
    ]
}


class EmbeddingsBody(Body):
    """OpenAI's embeddings request; images may stand among the texts."""

    model: Annotated[str, Field(min_length=1)]
    """Name of a registered image-text model."""
    input: Annotated[
        list[Annotated[str | ImageInput, BeforeValidator(_read_input), WithJsonSchema(_INPUT_SCHEMA)]],
        BeforeValidator(_list_of_one),
        Field(min_length=1),
    ]
    """A text, an image (`{"image": BASE64}` or a `data:image/...` URI), or several. Texts are cut off at the model's
    context length."""
    encoding_format: Literal["float", "base64"] = "float"
    """`base64` sends each vector as base64 of little-endian float32."""
    dimensions: int | None = None
    """Only the model's own number of dimensions is possible."""
    user: str | None = None
    """Taken, and not used."""


class Prediction(Answer):
    """A class that an image may show."""

    label: str
    """Its name."""
    index: int
    """Its position among the class names."""
    probability: float
    """softmax(exp(logit_scale) * cosine) over all classes asked about; for a classifier, of its logits."""


class ImagePredictions(Answer):
    """The answer about one image."""

    index: int
    """The image's position in the request."""
    predictions: list[Prediction]
    """The likeliest classes, likeliest first."""


class PredictionUsage(Answer):
    """What the question took."""

    num_images: int
    """Images looked at."""


class Predictions(Answer):
    """The answer of `/v1/zero-shot` and `/v1/classify`."""

    object: Literal["list"] = "list"
    """Always `list`."""
    model: str
    """The model that answered."""
    data: list[ImagePredictions]
    """An item an image, in the order of the request."""
    usage: PredictionUsage
    """What the question took."""


class Embedding(Answer):
    """A feature vector of unit length."""

    object: Literal["embedding"] = "embedding"
    """Always `embedding`."""
    index: int
    """The input's position in the request."""
    embedding: list[float] | str
    """The vector, or base64 of it."""


class EmbeddingUsage(Answer):
    """What the request took."""

    prompt_tokens: int
    """Tokens of the texts."""
    total_tokens: int
    """The same."""


class Embeddings(Answer):
    """OpenAI's embeddings answer."""

    object: Literal["list"] = "list"
    """Always `list`."""
    model: str
    """The model that answered."""
    data: list[Embedding]
    """An item an input, in the order of the request."""
    usage: EmbeddingUsage
    """What the request took."""
