# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Image processors: transformers' common suite, every kind of picture, preprocessing copied from backbones."""

import base64
import json
import struct
import unittest
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from transformers import AutoImageProcessor, BitImageProcessor, CLIPImageProcessor, ConvNextImageProcessor

from modeling_tgdt.image_loading_tgdt import open_image, rgb_picture
from modeling_tgdt.image_processing_pil_tgdt import TGDTImageProcessorPil, backbone_options
from modeling_tgdt.image_processing_tgdt import TGDTImageProcessor
from tests.transformers_suites import common_suite

ImageProcessingTestMixin = common_suite("test_image_processing_common", "ImageProcessingTestMixin")
ImageProcessingTester = common_suite("test_image_processing_common", "ImageProcessingTester")


class TGDTImageProcessingTester(ImageProcessingTester):  # type: ignore[misc,valid-type]
    def __init__(self, parent: Any, **kwargs: Any) -> None:
        kwargs.setdefault("size", {"height": 20, "width": 18})
        kwargs.setdefault("do_convert_rgb", True)
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self) -> dict[str, type]:
        # The suite looks in-tree models up by folder name; these classes are registered instead.
        return {"pil": TGDTImageProcessorPil, "torchvision": TGDTImageProcessor}


class TGDTImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):  # type: ignore[misc,valid-type]
    image_processor_tester_class = TGDTImageProcessingTester
    test_cast_dtype = True


@pytest.fixture(params=[TGDTImageProcessorPil, TGDTImageProcessor])
def processor(request: pytest.FixtureRequest) -> Any:
    return request.param(size={"height": 16, "width": 16})


def pixels(processor: Any, image: Any, **kwargs: Any) -> torch.Tensor:
    """One picture in 0..255, without normalisation: (3, H, W)."""
    options: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "do_resize": False, **kwargs}
    return processor(image, return_tensors="pt", **options).pixel_values[0].float()


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Serve one file on the loopback interface; returns its URL."""
    content = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    def start(data: bytes) -> str:
        nonlocal content
        content = data
        return f"http://127.0.0.1:{server.server_port}/a.png"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield start
        server.shutdown()


def noise(height: int = 12, width: int = 10, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16B", "F"],
)
def test_every_mode_gives_three_channels(processor: Any, mode: str) -> None:
    values = processor(Image.new(mode, (7, 5)), return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 16, 16) and values.dtype == torch.float32 and values.isfinite().all()


def test_path_url_base64_array_tensor_and_picture_agree(
    processor: Any, tmp_path: Path, serve: Callable[[bytes], str]
) -> None:
    array = noise()
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    text = base64.b64encode(buffer.getvalue()).decode()
    sources = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        serve(buffer.getvalue()),
        text,
        f"data:image/png;base64,{text}",
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array),
        array.astype(np.int64),
        array.astype(np.float64),
    ]
    expected = torch.from_numpy(array).permute(2, 0, 1).float()
    for source in sources:
        torch.testing.assert_close(pixels(processor, source), expected)
    batch = processor([*sources, Image.fromarray(array)], return_tensors="pt").pixel_values
    torch.testing.assert_close(batch, batch[:1].expand_as(batch))


def test_exif_orientation_is_applied_to_paths_and_pictures(processor: Any, tmp_path: Path) -> None:
    picture = Image.fromarray(noise(8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = torch.from_numpy(np.asarray(picture.transpose(Image.Transpose.ROTATE_270)).copy()).permute(2, 0, 1)
    for source in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        torch.testing.assert_close(pixels(processor, source), upright.float())


def test_transparency_becomes_white(processor: Any) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    for picture in (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), Image.new("LA", (4, 4), (9, 0)), palette):
        assert (pixels(processor, picture) == 255).all()
    deep = Image.fromarray(np.array([[257, 514]], dtype=np.uint16))
    deep.info["transparency"] = 257  # as of a PNG with 16 bits
    assert pixels(processor, deep)[0, 0].tolist() == [255, 2]


@pytest.mark.parametrize("kind", ["I;16", "I", "array", "tensor", "png"])
def test_sixteen_bits_are_scaled_not_clipped(processor: Any, kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896], [40000, 60000, 65535]], dtype=np.uint16)
    source: Any = Image.fromarray(values)
    if kind == "I":
        source = Image.fromarray(values.astype(np.int32))
        assert source.mode == "I"
    elif kind == "array":
        source = values
    elif kind == "tensor":
        source = torch.from_numpy(values)
    elif kind == "png":
        source.save(tmp_path / "deep.png")
        source = tmp_path / "deep.png"
    expected = torch.from_numpy(np.rint(values / 257.0)).float()
    torch.testing.assert_close(pixels(processor, source), expected.expand(3, -1, -1))


@pytest.mark.parametrize(("low", "high"), [(-1, 200), (0, 65_536)])
def test_pixels_of_more_than_sixteen_bits_are_refused(processor: Any, low: int, high: int) -> None:
    with pytest.raises(ValueError, match=f"whole-number pixels in 0..65535, found {low}..{high}"):
        processor(Image.fromarray(np.array([[low, high]], dtype=np.int32)), return_tensors="pt")


def test_lab_pictures_keep_their_colours(tmp_path: Path) -> None:
    colours = np.array([[[200, 30, 30], [60, 140, 90], [255, 255, 255]]], dtype=np.uint8)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(colours), *profiles, outputMode="LAB").save(tmp_path / "x.tiff")
    found = np.asarray(rgb_picture(open_image(tmp_path / "x.tiff"))).astype(int)
    assert np.abs(found - colours).max() <= 8  # LAB has 8 bits a channel


def test_unit_floats_equal_eight_bits_and_stay_without_rescaling(processor: Any) -> None:
    array = noise()
    unit = array.astype(np.float32) / 255
    whole = processor(array, return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(unit, return_tensors="pt").pixel_values, whole)
    coarse = processor(torch.from_numpy(unit).bfloat16(), return_tensors="pt").pixel_values
    torch.testing.assert_close(coarse, whole, atol=0.05, rtol=0)
    torch.testing.assert_close(pixels(processor, unit), torch.from_numpy(unit).permute(2, 0, 1))


def test_one_pixel_and_one_row(processor: Any) -> None:
    for array in (np.full((1, 1, 3), 7, np.uint8), np.full((1, 9, 3), 7, np.uint8), np.full((1, 1), 7, np.uint8)):
        assert (pixels(processor, array, do_resize=True) == 7).all()
        assert (pixels(processor, Image.fromarray(array), do_resize=True) == 7).all()


def test_gray_arrays_and_stacks(processor: Any) -> None:
    gray = noise()[..., 0]
    expected = processor(Image.fromarray(gray), return_tensors="pt").pixel_values
    for source in (gray, torch.from_numpy(gray), gray[None], gray[..., None]):
        torch.testing.assert_close(processor(source, return_tensors="pt").pixel_values, expected)
    stack = np.stack([noise(), noise()])
    assert processor(stack, return_tensors="pt").pixel_values.shape == (2, 3, 16, 16)


def test_animation_gives_its_first_frame(processor: Any, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(processor, tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", "readable picture at 'no/such/file.png'"),
        (b"raw", "found bytes"),
        (None, "found NoneType"),
        ([], "found an empty list"),
        (np.zeros((5, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((0, 4, 3), np.uint8), r"found \(0, 4, 3\)"),
        (np.full((4, 4, 3), 300), "integers in 0..255"),
        (np.full((4, 4, 3), -0.5), r"float pixels in \[0, 1\] or \[0, 255\], found -0.5"),
        (np.full((4, 4, 3), np.nan), "found nan"),
    ],
)
def test_refusals_say_what_was_found(processor: Any, source: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        processor(source)


def test_damaged_files_are_refused_by_name(processor: Any, tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for name, content in (("cut.jpg", data[: len(data) // 2]), ("text.jpg", b"hello"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"readable picture at .*{name}"):
            processor(tmp_path / name)


def test_a_tiny_file_that_claims_a_huge_picture_is_refused(processor: Any, tmp_path: Path) -> None:
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(ValueError, match="bomb.bmp"):
        processor(tmp_path / "bomb.bmp")


def test_backends_agree_on_defaults_and_values() -> None:
    pil, other = TGDTImageProcessorPil(), TGDTImageProcessor()
    assert pil.to_dict() == other.to_dict()
    picture = Image.fromarray(noise(90, 70)).resize((300, 200))
    first, second = (one(picture, return_tensors="pt").pixel_values for one in (pil, other))
    torch.testing.assert_close(first, second, atol=0.05, rtol=0)


def save(config: dict[str, Any], folder: Path) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def test_from_backbone_honours_unusual_statistics(tmp_path: Path) -> None:
    mean, std = [0.48502, 0.457957, 0.407604], [1 / 255] * 3
    config = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 24, "width": 24},
        "resample": 2,
        "image_mean": mean,
        "image_std": std,
    }
    ours = TGDTImageProcessor.from_backbone(save(config, tmp_path))
    picture = Image.fromarray(noise(40, 30))
    resized = np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR)) / 255.0
    expected = torch.from_numpy((resized - mean) / std).permute(2, 0, 1).float()
    torch.testing.assert_close(ours(picture, return_tensors="pt").pixel_values[0], expected, atol=1.01, rtol=0)
    (tmp_path / "again").mkdir()
    ours.save_pretrained(tmp_path / "again")
    assert AutoImageProcessor.from_pretrained(tmp_path / "again").image_std == tuple(std)


@pytest.mark.parametrize("edge", [32, 384])
@pytest.mark.parametrize("original", [BitImageProcessor, CLIPImageProcessor, ConvNextImageProcessor])
def test_from_backbone_equals_the_backbones_own_processor(original: Any, edge: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": {"shortest_edge": edge}}
    if original is not ConvNextImageProcessor:
        options["crop_size"] = {"height": edge - 8, "width": edge - 8}
    source = original(**options)
    source.save_pretrained(tmp_path)
    ours = TGDTImageProcessor.from_backbone(tmp_path)
    picture = Image.fromarray(noise(50, 70))
    torch.testing.assert_close(ours(picture, return_tensors="pt"), source(picture, return_tensors="pt"))


def test_from_backbone_reads_the_settings_of_timm(tmp_path: Path) -> None:
    settings = {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": settings}))
    ours = TGDTImageProcessor.from_backbone(tmp_path)
    assert dict(ours.size) == {"shortest_edge": 248} and dict(ours.crop_size) == {"height": 224, "width": 224}
    assert (ours.do_center_crop, ours.resample, list(ours.image_mean)) == (True, 2, [0.5] * 3)
    assert list(ours.image_std) == [0.229, 0.224, 0.225]
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": settings | {"crop_mode": "border"}}))
    with pytest.raises(ValueError, match="cut out at the centre.*crop_mode='border'"):
        TGDTImageProcessor.from_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        TGDTImageProcessor.from_backbone(tmp_path)


def test_from_backbone_takes_defaults_of_the_class_and_overrides(tmp_path: Path) -> None:
    ours = TGDTImageProcessor.from_backbone(
        save({"feature_extractor_type": "CLIPFeatureExtractor"}, tmp_path), image_mean=[0.0, 0.0, 0.0]
    )
    assert ours.crop_size.height == 224 and ours.do_center_crop and ours.image_mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "steps of its own"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 9}}, "gives all images one size"),
        ({}, "no class named"),
    ],
)
def test_backbones_that_cannot_be_copied_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone_options(config)
