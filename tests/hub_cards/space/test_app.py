# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""The demo page: its functions called directly, and the page in a headless browser, with pictures of it."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hub_cards.space.collection import MAX_UPLOADS, Collection, add_uploads
from hub_cards.space.searching import explain, score_table, search, start
from tests.tiny_retrieval import picture_folder, png_bomb, random_picture, tiny_retriever

WORDS = "a red ball on a blue box"


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    random_picture(seed).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = picture_folder(tmp_path_factory.mktemp("photos"), 6)
    retriever = tiny_retriever()
    retriever.add_images(folder, progress=False)
    return Collection(retriever, folder)


def test_a_search_by_words_shows_both_stages(collection: Collection) -> None:
    found = search(collection, f"  {WORDS} ", None, top_k=4)
    expected = collection.retriever.search(WORDS, top_k=4)
    assert found.ids == [hit.id for hit in expected] and found.query == WORDS
    assert found.rows[0] == [1, found.ids[0], *(f"{score:.3f}" for score in (
        expected[0].score, expected[0].global_score, expected[0].local_score))]  # fmt: skip
    assert found.tiles[0][0].size == (24, 20) or max(found.tiles[0][0].size) == 512
    assert "The best 4 of 6" in found.message and found.tiles[0][1] == Path(found.ids[0]).name


def test_a_search_by_picture(collection: Collection, tmp_path: Path) -> None:
    random_picture(3).save(tmp_path / "query.png")
    by_file = search(collection, "", str(tmp_path / "query.png"))
    assert by_file.ids == search(collection, None, random_picture(3)).ids
    assert by_file.ids[0] == "sub/003.png" and by_file.query is None
    assert explain(collection, by_file.query, by_file.ids[0])[0] is None


def test_words_and_a_picture_are_both_used(collection: Collection) -> None:
    by_words, by_picture = search(collection, WORDS, None).ids, search(collection, None, random_picture(3)).ids
    both = search(collection, WORDS, random_picture(3))
    shares = {name: 1 / (61 + by_words.index(name)) + 1 / (61 + by_picture.index(name)) for name in by_words}
    assert both.ids == sorted(by_words, key=lambda name: -shares[name]) and both.query == WORDS


def test_the_page_opens_on_results(collection: Collection) -> None:
    assert start(collection, [WORDS], 3).ids == search(collection, WORDS, None, top_k=3).ids
    assert start(collection, [], 3).ids == list(collection.retriever.index)[:3]  # type: ignore[arg-type]
    assert "add pictures of your own" in start(Collection(tiny_retriever()), []).message


def test_all_scores_are_in_one_table(collection: Collection) -> None:
    found = search(collection, WORDS, None)
    table = score_table([*found.rows, [7, "a|b", "1", "1", "1"]])
    assert all(name in table for name in found.ids) and "a\\|b" in table and score_table([]) == ""


def test_the_mix_moves_the_ranking(collection: Collection) -> None:
    first = search(collection, WORDS, None, mix=0.0)
    second = search(collection, WORDS, None, mix=1.0)
    by_first = sorted(first.rows, key=lambda row: -float(row[3]))
    by_second = sorted(second.rows, key=lambda row: -float(row[4]))
    assert [row[3] for row in first.rows] == [row[3] for row in by_first]
    assert [row[4] for row in second.rows] == [row[4] for row in by_second]


@pytest.mark.parametrize(
    ("words", "picture", "message"),
    [("", None, "Type some words"), (" ", None, "Type some words"), ("", b"no picture", "cannot be searched for")],
)
def test_what_cannot_be_searched_is_a_message(collection: Collection, words: str, picture: Any, message: str) -> None:
    found = search(collection, words, picture)
    assert message in found.message and found.ids == []
    assert "upload some pictures" in search(None, "words", None).message


def test_an_explanation_is_a_drawing(collection: Collection) -> None:
    drawing, message = explain(collection, WORDS, "000.png")
    assert drawing is not None and drawing.width > 400
    assert "red " in message and "ball " in message


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "missing.png"])
def test_an_id_never_leads_out_of_the_folder(collection: Collection, name: str) -> None:
    assert collection.picture(name) is None
    assert collection.tile(name).size == (256, 256)
    assert explain(collection, WORDS, name)[0] is None


def test_uploads_are_searched_in_a_gallery_of_their_own(collection: Collection) -> None:
    before = len(collection)
    mine, refused = add_uploads(None, collection.retriever, [("a.png", encoded(20)), ("b.jpg", encoded(21, "JPEG"))])
    mine, more = add_uploads(mine, collection.retriever, [("c.png", encoded(22))])
    assert (refused, more, len(mine), len(collection)) == ([], [], 3, before)
    assert set(search(mine, WORDS, None).ids) == {"a.png", "b.jpg", "c.png"}
    assert explain(mine, WORDS, "a.png")[0] is not None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("../../x.png", encoded(1), "not accepted"),
        ("..\\x.png", encoded(1), "not accepted"),
        (".hidden.png", encoded(1), "not accepted"),
        ("/etc/x.png", encoded(1), "not accepted"),
        ("notes.txt", b"words", "not that of a picture"),
        ("broken.png", b"\x89PNG\r\n\x1a\n nothing", "not a readable picture"),
        ("page.jpg", b"<script>alert(1)</script>", "not a readable picture"),
        ("empty.png", b"", "0 bytes"),
        ("bomb.png", png_bomb(10_000), "10000 x 10000 pixels"),
        ("tall.png", png_bomb(1, 50_000_000), "more than 65535 on a side"),
        ("large.png", bytes(17 << 20), "larger than the 16 MiB"),
    ],
)
def test_bad_uploads_are_refused_and_write_nowhere(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, refused = add_uploads(None, collection.retriever, [(name, content), ("good.png", encoded(2))])
    assert len(refused) == 1 and reason in refused[0]
    assert len(mine) == 1 and list(tmp_path.iterdir()) == []


def test_what_visitors_send_is_decoded_where_the_page_says(collection: Collection, tmp_path: Path) -> None:
    def too_slow(content: bytes) -> Image.Image:
        raise ValueError("the picture was not decoded within 10 seconds")

    slow = Collection(collection.retriever, collection.pictures, too_slow)
    (tmp_path / "query.png").write_bytes(encoded(3))
    mine, refused = add_uploads(None, slow.retriever, [("a.png", encoded(3))], slow.decode)
    assert "not decoded within 10" in refused[0] and mine.decode is too_slow
    for picture in (str(tmp_path / "query.png"), encoded(3)):
        assert "not decoded within 10" in search(slow, None, picture).message
    assert "no longer here" in search(slow, None, str(tmp_path / "gone.png")).message


def test_gradio_does_not_decode_a_query(tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="the page needs gradio (extra `demo`)")
    from hub_cards.space.app import _picture_input

    (tmp_path / "query.png").write_bytes(b"no picture")
    picture = _picture_input()
    payload = gradio.data_classes.ImageData(path=str(tmp_path / "query.png"), orig_name="query.png")
    assert picture.preprocess(payload) == str(tmp_path / "query.png") and picture.preprocess(None) is None


def test_the_number_of_uploads_is_bounded(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_cards.space.collection.MAX_UPLOADS", 2)
    mine, refused = add_uploads(None, collection.retriever, [(f"{n}.png", encoded(n)) for n in range(4)])
    assert len(mine) == 2 and "the most that this page holds" in refused[0]
    assert MAX_UPLOADS == 200


@pytest.fixture(scope="module")
def page(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the page needs gradio (extra `demo`)")
    from hub_cards.space.app import build

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    made = build(collection.retriever, collection.pictures, examples=[WORDS])
    _, address, _ = made.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, share=False)
    yield address
    made.close()


def test_a_space_serves_what_its_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio (extra `demo`)")
    from hub_cards.space import app

    with pytest.raises(ValueError, match="TGDT_MODEL"):
        app.main()
    built: list[Any] = []

    class Page:
        def launch(self, **options: Any) -> None:
            built.append(options)

    def build(*given: Any) -> Page:
        built.append(given)
        return Page()

    monkeypatch.setattr(app.TGDTRetriever, "from_pretrained", lambda name: f"retriever of {name}")
    monkeypatch.setattr(app, "build", build)
    monkeypatch.setenv("TGDT_MODEL", "me/model")
    monkeypatch.setenv("TGDT_PICTURES", "photos")
    app.main()
    assert built == [("retriever of me/model", "photos"), {"max_file_size": app.MAX_BYTES}]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the browser test needs chromium, for example `apt-get install chromium`")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()


class Visit:
    """A tab on the page that takes pictures of itself and notes errors."""

    def __init__(self, browser: Any, page: str, folder: Path, width: int, height: int) -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.tab.set_default_timeout(120_000)
        self.folder, self.width = Path(os.environ.get("TGDT_SCREENSHOTS", folder)), width
        self.errors: list[str] = []
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(page)

    def search(self, message: str) -> None:
        self.tab.get_by_role("button", name="Search", exact=True).click()
        self.tab.get_by_text(message).wait_for()
        self.tab.wait_for_selector("#results img")

    def click_the_best(self) -> None:
        self.tab.locator("#results img").first.click()
        self.tab.wait_for_selector("#explanation img")
        self.tab.get_by_text("ball ", exact=False).last.wait_for()

    def screenshot(self, name: str) -> None:
        path = self.folder / f"{name}-{self.width}.png"
        self.tab.screenshot(path=path, full_page=True)
        with Image.open(path) as picture:
            assert picture.width == self.width and len(picture.convert("RGB").getcolors(1 << 24) or []) > 50

    def close(self) -> None:
        assert self.tab.evaluate("document.documentElement.scrollWidth") <= self.width
        assert self.errors == []
        self.tab.close()


SCREENS = pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])


@pytest.mark.slow
@SCREENS
def test_the_page_in_a_browser(browser: Any, page: str, width: int, height: int, tmp_path: Path) -> None:
    random_picture(3).save(tmp_path / "query.png")
    visit = Visit(browser, page, tmp_path, width, height)
    visit.tab.get_by_label("Words").fill(WORDS)
    visit.search("The best 6 of 6")
    visit.screenshot("words")
    visit.click_the_best()
    visit.screenshot("explanation")
    visit.tab.get_by_label("Words").fill("")
    visit.tab.get_by_text("Search by a picture").click()
    visit.tab.locator("input[type=file]").first.set_input_files(tmp_path / "query.png")
    visit.tab.wait_for_timeout(1500)
    visit.search("Add words to see")
    visit.screenshot("picture")
    visit.close()


@pytest.mark.slow
@SCREENS
def test_uploads_in_a_browser(browser: Any, page: str, width: int, height: int, tmp_path: Path) -> None:
    contents = {
        "mine.png": encoded(20),
        "other.jpg": encoded(21, "JPEG"),
        "words.png": b"no picture",
        "bomb.png": png_bomb(10_000),
        "../../x": encoded(1),
        ".hidden.png": encoded(2),
    }
    files = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in contents.items()]
    visit = Visit(browser, page, tmp_path, width, height)
    visit.tab.get_by_text("Your own pictures").click()
    visit.tab.locator("input[type=file][multiple]").set_input_files(files)
    uploaded = visit.tab.get_by_text("pictures of yours")
    uploaded.wait_for()
    visit.screenshot("uploads")
    shown = visit.tab.locator("body").inner_text()
    assert "2 pictures of yours" in shown and shown.count("Refused") == 4
    assert "10000 x 10000 pixels" in shown and "not a readable picture" in shown
    visit.tab.get_by_label("Words").fill(WORDS)
    visit.search("The best 2 of 2")
    visit.click_the_best()
    visit.screenshot("mine")
    visit.close()
    left = [path.name for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]
    assert not {"mine.png", "words.png", "bomb.png", "x", "hidden.png", ".hidden.png"} & set(left)
