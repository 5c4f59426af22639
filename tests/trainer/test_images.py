"""Bad and unusual pictures: decoding, policies, and the report across worker processes."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from hub_cards.space.collection import Collection, _read_upload
from modeling_tgdt import AddReport, TGDTImageProcessor
from modeling_tgdt.image_loading_tgdt import known_formats, read_picture, rgb_picture, upright_size
from modeling_tgdt.retriever.picture_sources import list_pictures
from tests.trainer.tiny import caption_of, picture
from trainer.data.caption_dataset import CaptionDataset
from trainer.data.skip_report import SkipReport
from trainer.datasets import load_captions
from trainer.images import UnreadableImageError, read_image, why_unreadable


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def broken_files() -> dict[str, bytes]:
    whole = jpeg(picture(1, (200, 150)))
    return {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "header.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 20,
    }


def unusual_pictures(folder: Path) -> list[str]:
    """Write readable pictures of unusual kinds and return their names."""
    base = picture(2)
    base.convert("RGBA").save(folder / "alpha.png")
    base.convert("P").save(folder / "palette.png")
    base.convert("P").save(folder / "clear.png", transparency=0)
    base.convert("CMYK").save(folder / "cmyk.jpg")
    base.convert("L").save(folder / "gray.jpg")
    base.convert("LA").save(folder / "grayalpha.png")
    base.convert("1").save(folder / "bilevel.png")
    Image.new("I;16", (40, 30), 40000).save(folder / "deep.png")
    base.save(folder / "animated.gif", save_all=True, append_images=[picture(3), picture(4)])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    base.save(folder / "named.jpg", "PNG")
    names = ["alpha.png", "palette.png", "clear.png", "cmyk.jpg", "gray.jpg", "grayalpha.png", "bilevel.png"]
    return [*names, "deep.png", "animated.gif", "dot.png", "named.jpg"]


def test_every_kind_becomes_rgb(tmp_path: Path) -> None:
    for name in unusual_pictures(tmp_path):
        assert why_unreadable(tmp_path / name) is None, name
        assert read_image(tmp_path / name).mode == "RGB", name
    assert read_image(tmp_path / "deep.png").getpixel((0, 0)) == (156, 156, 156)
    assert read_image(Image.new("RGBA", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_and_exif() -> None:
    frames = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(
        frames, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]
    )
    assert read_image(frames.getvalue()).getpixel((0, 0)) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(jpeg(Image.new("RGB", (40, 20)), exif=exif)).size == (20, 40)
    assert read_image(jpeg(picture(1), exif=b"Exif\0\0garbage")).size == (40, 30)


@pytest.mark.parametrize("name", sorted(broken_files()))
def test_broken_files_say_why(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(broken_files()[name])
    assert why_unreadable(tmp_path / name)
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / name)


def test_bombs_and_missing_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImageError, match="more than the 1000"), monkeypatch.context() as limit:
        limit.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        read_image(picture(1))
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_image("gone.jpg")
    with pytest.raises(UnreadableImageError, match="no picture"):
        read_image({"bytes": None, "path": None})


@pytest.fixture
def bad_folder(tmp_path: Path) -> tuple[Path, int]:
    """A smaller cut of a photo folder gone bad, with one row for a file that does not exist."""
    names = unusual_pictures(tmp_path)
    for number in range(60):
        picture(number).save(tmp_path / f"good{number}.jpg")
        names.append(f"good{number}.jpg")
    for copy in range(3):
        for name, content in broken_files().items():
            (tmp_path / f"bad{copy}{name}").write_bytes(content)
            names.insert(copy * 7, f"bad{copy}{name}")
    names.append("gone.jpg")
    lines = "".join(f"{name},{caption_of(row)}\n" for row, name in enumerate(names))
    (tmp_path / "captions.csv").write_text("image,caption\n" + lines)
    return tmp_path, len(names)


def test_skip_at_load_time(bad_folder: tuple[Path, int]) -> None:
    folder, count = bad_folder
    report = SkipReport()
    dataset = load_captions(folder, on_error="skip", report=report)
    assert len(report) == 13 and len(dataset) == count - 13
    assert all(why for _, why in report) and "13 items skipped" in report.summary()
    assert len(list(CaptionDataset(dataset))) == count - 13


def test_placeholder_at_load_time(bad_folder: tuple[Path, int]) -> None:
    folder, count = bad_folder
    dataset = load_captions(folder, on_error="placeholder")
    examples = list(CaptionDataset(dataset))
    assert len(examples) == count and examples[0]["image"].getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_in_workers_keeps_batches_full(bad_folder: tuple[Path, int], workers: int) -> None:
    folder, count = bad_folder
    dataset = CaptionDataset(load_captions(folder), on_error="skip")
    loader = torch.utils.data.DataLoader(dataset, 8, num_workers=workers, collate_fn=list)
    assert sum(len(batch) for batch in loader) == count
    assert len(dataset.report) == 13


def test_raise_names_the_photo(bad_folder: tuple[Path, int]) -> None:
    dataset = CaptionDataset(load_captions(bad_folder[0]))
    with pytest.raises(UnreadableImageError, match=r"Photo 'bad.*' cannot be read: .* pass on_error='skip'"):
        list(dataset)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    rows = {"image": [str(tmp_path / "a.jpg")], "captions": [["x"]], "image_id": ["a"]}
    with pytest.raises(UnreadableImageError, match="No picture of the data set"):
        CaptionDataset(load_captions(datasets.Dataset.from_dict(rows)), on_error="skip")[0]


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="'raise', 'skip' or 'placeholder', found 'ignore'"):
        load_captions("anything", on_error="ignore")  # type: ignore[arg-type]


def test_report_survives_pickling() -> None:
    import pickle

    report = SkipReport()
    # Data-loader workers that are spawned receive the report pickled; nothing of ours is stored so.
    pickle.loads(pickle.dumps(report)).add("b", "broken")
    report.add("b", "again")
    assert report.items == [("b", "broken")] and len(report) == 1


def exif_with(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of raw directory entries (tag, type, count, value), orientation 6 before them."""
    rows = [(0x112, 3, 1, struct.pack("<HH", 6, 0)), *entries]
    body = b"".join(struct.pack("<HHI4s", *row) for row in rows)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + body + b"\0\0\0\0"


DAMAGED = {
    "text behind the end": (0x10E, 2, 400, struct.pack("<I", 9999)),
    "pointer away": (0x8769, 4, 1, struct.pack("<I", 1 << 30)),
    "pointer as bytes": (0x8769, 7, 4, b"abcd"),
    "float": (0x131, 11, 1, struct.pack("<f", float("nan"))),
    "unknown type": (0x9C9B, 77, 3, b"abcd"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_exif_block_still_turns_the_picture(name: str) -> None:
    turned = jpeg(picture(1), exif=exif_with(DAMAGED[name]))
    straight = read_image(jpeg(picture(1)))
    assert ImageChops.difference(read_image(turned), straight.transpose(Image.Transpose.ROTATE_270)).getbbox() is None
    decoded = read_picture(turned)
    assert rgb_picture(rgb_picture(decoded)).size == upright_size(decoded) == (30, 40)  # turned once


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_holds_in_every_format(tmp_path: Path, suffix: str) -> None:
    """EXIF 2.3, section 4.6.4; the corners of a picture by their colours."""
    turns = {1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb"}
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    image = Image.new("RGB", (64, 32))
    for number, letter in enumerate("rgbw"):
        image.paste(colours[letter], (number % 2 * 32, number // 2 * 16, number % 2 * 32 + 32, number // 2 * 16 + 16))
    for orientation, corners in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"x.{suffix}", exif=exif)
        upright = read_image(tmp_path / f"x.{suffix}")
        width, height = upright.size
        places = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
        seen = [upright.getpixel(place) for place in places]
        assert np.abs(np.array(seen) - [colours[letter] for letter in corners]).max() < 60, orientation
        with Image.open(tmp_path / f"x.{suffix}") as opened:
            assert upright_size(opened) == upright.size == ((64, 32) if orientation < 5 else (32, 64))


def test_everything_that_shows_or_embeds_a_picture_sees_the_same(tmp_path: Path) -> None:
    ramp = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    processor = TGDTImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    for name, image in (("deep.png", Image.fromarray(ramp)), ("clear.png", clear)):
        image.save(tmp_path / name)
        want = np.asarray(read_image(tmp_path / name))
        seen = processor(read_picture(tmp_path / name), return_tensors="np")["pixel_values"][0]
        assert np.array_equal(np.asarray(seen).transpose(1, 2, 0), want)
        assert np.array_equal(np.asarray(Collection(None, tmp_path).picture(name)), want)  # type: ignore[arg-type]
        content = (tmp_path / name).read_bytes()
        assert np.array_equal(np.asarray(_read_upload(content, read_image)), want)
    assert want.mean() > 100 or want.mean() == 255


def test_files_that_are_no_pictures_are_named_or_counted(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.jpg")
    (tmp_path / "scan").write_bytes(jpeg(picture(1)))
    (tmp_path / "b.jpe").write_bytes(jpeg(picture(2)))
    (tmp_path / "c.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "d.svg").write_text("<svg/>")
    for name in ("notes.txt", "more.TXT", "README"):
        (tmp_path / name).write_text("words")
    left_out: dict[str, str] = {}
    found = [name for name, _ in list_pictures(tmp_path, left_out)]
    report = AddReport()
    report.leave_out(left_out)
    assert [name for name in found if name != "c.HEIC"] == ["a.jpg", "b.jpe", "scan"]
    assert [name for name, _ in report.skipped if name != "c.HEIC"] == ["d.svg"]
    assert ("c.HEIC" in found) == ("HEIF" in known_formats())
    assert report.no_pictures == {".txt": 2, "no suffix": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names on Unix only")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for source in ([path for _, path in list_pictures(tmp_path)], [str(tmp_path / "x.png")]):
        with pytest.raises(ValueError, match="not a regular file"):
            read_picture(source[0])
    assert "not a regular file" in str(why_unreadable(tmp_path / "x.png"))


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_above_a_limit_of_pixels_are_left_out(tmp_path: Path, streaming: bool) -> None:
    for number, size in enumerate([(8, 8), (9, 8)]):
        picture(number, size).save(tmp_path / f"{number}.png")
    (tmp_path / "captions.csv").write_text("file_name,caption\n0.png,a cat\n1.png,a dog\n")
    report = SkipReport()
    kept = load_captions(tmp_path, max_pixels=64, on_error="skip", report=report, streaming=streaming)
    assert [row["captions"] for row in kept] == [["a cat"]] and "9 x 8 pixels" in report.items[0][1]
    with pytest.raises(ValueError, match="max_pixels leaves pictures out"):
        load_captions(tmp_path, max_pixels=64)


def test_pictures_of_phones_are_read(tmp_path: Path) -> None:
    """Boxes of the format turn a HEIC picture; the EXIF orientation is a copy and must not turn it once more."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    whole = Image.new("RGB", (64, 32), "red")
    whole.paste("blue", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save(tmp_path / "a.HEIC", exif=exif)
    (tmp_path / "scan").write_bytes((tmp_path / "a.HEIC").read_bytes())
    left_out: dict[str, str] = {}
    found = dict(list_pictures(tmp_path, left_out))
    assert set(found) == {"a.HEIC", "scan"} and not left_out
    for path in found.values():
        for image in (rgb_picture(read_picture(path)), read_image(path)):
            assert image.size == (64, 32)
            assert image.getpixel((8, 16))[2] > 200 and image.getpixel((56, 16))[0] > 200  # type: ignore[index]
        with Image.open(path) as opened:
            assert upright_size(opened) == (64, 32)
        assert why_unreadable(path) is None and "pixels" in str(why_unreadable(path, max_pixels=100))
    (tmp_path / "torn.heic").write_bytes((tmp_path / "scan").read_bytes()[:300])
    assert why_unreadable(tmp_path / "torn.heic") is not None
    (tmp_path / "captions.csv").write_text("file_name,caption\na.HEIC,a flag\ntorn.heic,nothing\n")
    assert load_captions(tmp_path, on_error="skip")["captions"][:] == [["a flag"]]
