"""Hooks of schemathesis: pictures for the uploads, which a schema cannot describe."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from trainer.serving.schema import picture_media_types


def _encoded(width: int, height: int, color: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (color, 255 - color, 7)).save(buffer, kind)
    return buffer.getvalue()


_side = st.integers(1, 64)
_pictures = st.builds(_encoded, _side, _side, st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))

for _media_type in picture_media_types():
    schemathesis.openapi.media_type(_media_type, _pictures)
