# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""Who may import whom: the arrows of docs/architecture.md, read from the import statements of the sources."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.mirror import TESTED_THROUGH

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_tgdt", "hub_cards", "trainer")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    return {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


@cache
def imports(module: str, top_level: bool = False) -> frozenset[str]:
    """Modules of the house that one imports, anywhere or in its top-level statements; type checking does not count."""
    path = sources()[module]
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), top_level):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package if node.level else ""
            base = ".".join(filter(None, (parent, node.module)))
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in sources() else base for name in names}
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES)


def _statements(tree: ast.AST, top_level: bool) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found.append(node)
        if not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)):
            found += _statements(node, top_level)
    return found


def broken(inside: str, *forbidden: str) -> list[str]:
    """List the imports from modules of `inside` of what begins with a forbidden name."""
    return sorted(
        f"{module} -> {name}"
        for module in sources()
        if f"{module}.".startswith(f"{inside}.")
        for name in imports(module)
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in forbidden)
    )


def copied(entry: str) -> set[str]:
    """Modules that transformers copies to the Hub beside an entry module: its relative imports, and theirs."""
    seen, waiting = set(), [entry]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports(module)
    return {module.removeprefix("modeling_tgdt.").removesuffix("_tgdt") for module in seen}


ROOMS = ("gallery", "kernels", "retriever", "runtimes", "drawing")
GALLERY, KERNELS, RETRIEVER, RUNTIMES, DRAWING = (f"modeling_tgdt.{room}" for room in ROOMS)
ENTRIES = ("modeling_tgdt.modeling_tgdt", "modeling_tgdt.processing_tgdt", "modeling_tgdt.image_processing_tgdt")
DOORS = ("modeling_tgdt.index_tgdt", "modeling_tgdt.retrieval_tgdt", "modeling_tgdt.explain_tgdt")
# What transformers copies to the Hub. A file more is a file more in every repository of a user.
MODEL = {"modeling", "configuration", "backbones", "dual_encoders", "heads", "loss", "objectives", "similarity"}
MODEL |= {"triton_similarity"}
PROCESSOR = {"processing", "image_processing", "image_processing_pil", "image_loading", "tokenizing", "configuration"}
PIPELINE = {"pipeline", "encoding"}  # beside those of model and processor


@pytest.mark.parametrize(
    ("inside", "forbidden"),
    [
        ("modeling_tgdt", ("trainer", "hub_cards")),
        ("hub_cards", ("trainer",)),
        (KERNELS, (GALLERY, RETRIEVER, RUNTIMES, DRAWING, *ENTRIES, *DOORS)),
        (GALLERY, (RETRIEVER, RUNTIMES, DRAWING, *ENTRIES, *DOORS)),
        (DRAWING, (GALLERY, KERNELS, RETRIEVER, RUNTIMES, *ENTRIES, *DOORS)),
        (RUNTIMES, (GALLERY, KERNELS, RETRIEVER, DRAWING, *DOORS)),
        (RETRIEVER, ("modeling_tgdt.retrieval_tgdt",)),
        ("trainer.data", ("trainer.training", "trainer.scoring", "trainer.cmc_trainer", "trainer.evaluation")),
        ("trainer.scenes", ("trainer.commands",)),
        ("trainer.scoring", ("trainer.commands", "trainer.cmc_trainer")),
    ],
)
def test_arrows_point_one_way(inside: str, forbidden: tuple[str, ...]) -> None:
    assert broken(inside, *forbidden) == []


def test_what_the_hub_copies_is_flat_and_small() -> None:
    assert copied("modeling_tgdt.modeling_tgdt") == MODEL
    assert copied("modeling_tgdt.processing_tgdt") | copied("modeling_tgdt.image_processing_tgdt") == PROCESSOR
    assert copied("modeling_tgdt.pipeline_tgdt") == MODEL | PROCESSOR | PIPELINE
    doors = {"index", "retrieval", "explain", "convert_tgdt_original_to_hf"}
    flat = {path.stem.removesuffix("_tgdt") for path in (ROOT / "modeling_tgdt").glob("*.py")} - {"__init__"}
    assert flat == MODEL | PROCESSOR | PIPELINE | doors


def test_verbs_import_no_other_verb() -> None:
    verbs = [module for module in sources() if module.startswith("trainer.commands.")]
    for verb in verbs:
        others = {name for name in imports(verb) if name.startswith("trainer.commands.")} - {verb}
        assert others <= {"trainer.commands.common"}, verb


def test_the_command_line_starts_without_torch() -> None:
    verbs = [module for module in sources() if module.startswith("trainer.commands.")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {['trainer.cli', *verbs]}]; "
    code += "print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_package_leaves_heavy_libraries_out() -> None:
    code = "import sys, modeling_tgdt, trainer; print({'datasets', 'qdrant_client', 'gradio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


def test_rooms_stay_small() -> None:
    folders = {path.parent for path in sources().values()}
    for folder in folders:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 20, f"{folder.relative_to(ROOT)} has {len(files)} files"


def test_the_options_of_index_are_those_of_the_store() -> None:
    from modeling_tgdt.kernels.quantize import TOKEN_DTYPES as KNOWN
    from trainer.commands.index import TOKEN_DTYPES

    assert sorted(KNOWN) == list(TOKEN_DTYPES)


def test_the_architecture_page_names_the_right_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\| [^|]*\? \| `([\w/.]+)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert len(answers) == 18
    for file, name in answers:
        assert re.search(rf"^ *(def|class) {name}\b|^{name}\b", (ROOT / file).read_text("utf-8"), re.MULTILINE), file
    for line in page.splitlines():
        folder = ROOT
        for file in re.findall(r"`([\w/.]+(?:/|\.py|\.md|\.yaml))`", line):  # a bare name stands beside the one before
            folder = folder if "/" not in file else (ROOT / file).parent
            assert (ROOT / file if "/" in file else folder / file).exists(), line


# The errors of these files are the ends of sentences that another file begins: "... is damaged (it has 0 bytes)."
REASONS = {
    "modeling_tgdt/gallery": ("manifest", "metadata", "plain_files", "segment"),
    "modeling_tgdt": ("image_loading_tgdt",),
    "modeling_tgdt/retriever": ("directory", "threshold"),
    "trainer": ("images",),
    "trainer/serving": ("decoding",),
    "hub_cards/space": ("collection",),
}


def message(node: ast.expr) -> str:
    """Return the text of a literal or an f-string, with a pair of braces for each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(message(value) for value in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


def test_errors_are_sentences() -> None:
    """An error begins with a capital letter, a value or an option's name, and ends with a period or a value."""
    begins, wrong = re.compile(r"[A-Z{'`-]|\w+[_=.\[]|\w+ must "), []
    for path in sources().values():
        if path.stem in REASONS.get(path.parent.relative_to(ROOT).as_posix(), ()):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and call.args and ast.unparse(call.func) in ("ValueError", "TypeError"):
                text = message(call.args[0]).strip()
                if not (begins.match(text) and text.endswith((".", "}", "?"))):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert not wrong


def test_tests_mirror_the_code() -> None:
    through = {source: test for test, own in TESTED_THROUGH.items() for source in own}
    for path in sources().values():
        source = path.relative_to(ROOT)
        if path.name == "__init__.py":
            continue
        own = ROOT / "tests" / source.parent / f"test_{source.name}"
        assert own.exists() != (source.as_posix() in through), (
            f"{source}: one test file, or one entry in tests/mirror.py"
        )
    for source, test in through.items():
        assert (ROOT / source).exists() and (ROOT / "tests" / test).exists(), (source, test)
