# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What the package declares can be installed: every dependency runs on the oldest Python that is promised."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST = PROJECT["requires-python"].removeprefix(">=")


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])])
def test_every_dependency_runs_on_the_oldest_python(text: str) -> None:
    try:
        needed = metadata.metadata(Requirement(text).name)["Requires-Python"]
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs {text}")
    assert f"{OLDEST}.9" in SpecifierSet(needed or ""), f"{text} needs Python {needed}, tgdt promises {OLDEST}"


def test_readme_makefile_and_linter_say_the_same_python() -> None:
    said = re.findall(r"python3 >= (\d\.\d+)", (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text())
    linted = re.search(r'target-version = "py3(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert set(said) == {OLDEST} and linted and f"3.{linted[1]}" == OLDEST
