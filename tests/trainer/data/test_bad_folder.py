"""A folder of 2,000 files, many of them bad, trains under `skip` and stops under `raise`."""

import json
from pathlib import Path

import pytest

from tests.trainer.test_images import broken_files, jpeg, unusual_pictures
from tests.trainer.tiny import caption_of, picture, tiny_model, tiny_processor
from trainer import CMCTrainer, CMCTrainingArguments, load_captions
from trainer.images import UnreadableImageError

FILES = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Tiny photos; one in ten is truncated, empty, mislabelled or a bare header, one in ten RGBA, CMYK, animated..."""
    root = tmp_path_factory.mktemp("photos")
    unusual = {name: (root / name).read_bytes() for name in unusual_pictures(root)}
    for name in unusual:
        (root / name).unlink()
    bad, lines = set(), ["file_name,caption"]
    kinds, odd = sorted(broken_files().items()), sorted(unusual.items())
    good = [jpeg(picture(number, (24, 18))) for number in range(20)]
    for number in range(FILES):
        kind, content = "fine.jpg", good[number % len(good)]
        if number % 10 == 3:
            kind, content = kinds[number // 10 % len(kinds)]
        elif number % 10 == 7:
            kind, content = odd[number // 10 % len(odd)]
        name = f"{number:04d}-{kind}"
        (root / name).write_bytes(content)
        if number % 10 == 3:
            bad.add(name)
        lines.append(f"{name},{caption_of(number)}")
    (root / "captions.csv").write_text("\n".join(lines))
    return root, bad


def train(root: Path, output: Path, on_error: str) -> CMCTrainer:
    args = CMCTrainingArguments(
        str(output), on_error=on_error, max_steps=40, per_device_train_batch_size=50, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    photos = load_captions(root)
    trainer = CMCTrainer(model=tiny_model(), args=args, train_dataset=photos, processing_class=tiny_processor())
    trainer.train()
    return trainer


@pytest.mark.slow
def test_skip_trains_on_the_rest_and_lists_what_it_left_out(folder: tuple[Path, set[str]], tmp_path: Path) -> None:
    root, bad = folder
    trainer = train(root, tmp_path, "skip")
    assert len(bad) == 200 and len(trainer.train_dataset) == FILES - 200
    assert trainer.state.epoch is not None and trainer.state.epoch > 1  # every file was read
    listed = dict(json.loads((tmp_path / "skipped.json").read_text()))
    assert set(listed) == bad and all(listed.values())


@pytest.mark.slow
def test_raise_stops_and_names_the_picture(folder: tuple[Path, set[str]], tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"Photo '\d{4}-.*' cannot be read: .*on_error='skip'") as stopped:
        train(folder[0], tmp_path, "raise")
    assert any(name in str(stopped.value) for name in folder[1])
