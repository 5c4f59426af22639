# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What OpenAPI should say about the service beyond what FastAPI reads off the functions."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from modeling_tgdt.image_loading_tgdt import FORMATS

_MEDIA_TYPES = {"JPEG2000": "image/jp2", "PPM": "image/x-portable-pixmap"}
_VALUES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int64": {"type": "number"},  # compared by value: 1.5 matches nothing
    "double": {"type": "number"},
}


def describe(description: dict[str, Any], types: Mapping[str, str] | None) -> dict[str, Any]:
    """Complete the description of `/search`: the filter is JSON over the gallery's keys, the upload is a picture.

    Args:
        description: OpenAPI document of FastAPI; it stays as it is.
        types: Arrow type of each metadata key; None when any key may be there.

    Returns:
        The completed document.
    """
    described = deepcopy(description)
    for operation in described["paths"]["/search"].values():
        for parameter in operation["parameters"]:
            if parameter["name"] == "where":
                del parameter["schema"]
                parameter["content"] = {"application/json": {"schema": filter_schema(types)}}
    body = described["paths"]["/search"]["post"]["requestBody"]["content"]["multipart/form-data"]
    body["encoding"] = {"image": {"contentType": ", ".join(picture_media_types())}}
    return described


def filter_schema(types: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the JSON schema of a filter, nested once (the service takes deeper ones); other keys are refused."""
    if types is None:
        flat: dict[str, Any] = {"additionalProperties": _condition({"type": ["string", "number", "boolean"]})}
    else:
        properties = {key: _condition(_VALUES[kind]) for key, kind in types.items() if kind in _VALUES}
        flat = {"properties": properties, "additionalProperties": False}
    flat = {"type": "object", **flat}
    joined = {"type": "array", "items": flat}
    words = {"and": joined, "or": joined, "not": flat, "ids": {"type": "array", "items": {"type": "string"}}}
    return flat | {"properties": flat.get("properties", {}) | words}


def picture_media_types() -> list[str]:
    """Return the media types of the formats that are decoded."""
    return [_MEDIA_TYPES.get(name, f"image/{name.lower()}") for name in FORMATS]


def _condition(value: dict[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "items": value}
    operators = dict.fromkeys(("eq", "gt", "gte", "lt", "lte"), value) | {"in": several}
    operations = {"type": "object", "properties": operators, "additionalProperties": False}
    return {"anyOf": [value, several, operations]}
