# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""transformers' own common test suites, loaded from its source distribution.

`make test` unpacks them to `.venv/transformers-tests/tests`. They are imported under the alias `transformers_tests`,
because their package is called `tests` like ours:

    from tests.transformers_suites import common_suite

    ModelTesterMixin = common_suite("test_modeling_common", "ModelTesterMixin")

The source distribution leaves out four small helpers that the suites import; stand-ins for them live here.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

ALIAS = "transformers_tests"
SUITES = Path(__file__).parents[1] / ".venv" / "transformers-tests" / "tests"
MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_expert_parallel_test",
    "is_fsdp_test",
    "is_pipeline_test",
    "is_staging_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "order",
    "torch_compile_test",
)
REASON = "transformers' common suites are not unpacked: run `make .venv/transformers-tests/.complete` (needs network)."


class _Missing:
    """Base that makes unittest and pytest skip every test of the classes derived from it."""

    __unittest_skip__ = True
    __unittest_skip_why__ = REASON

    def test_common_suite(self) -> None:
        """Show the skip, with its reason, in the report."""


@cache
def _sample_picture() -> str:
    path = Path(tempfile.mkdtemp(prefix="tgdt-suites-")) / "sample.png"
    Image.effect_noise((96, 64), 64).convert("RGB").save(path)
    return str(path)


def _url_to_local_path(url: str) -> str:
    """Stand in for the cache of transformers' CI: every picture is a small local one, other files keep their URL."""
    return _sample_picture() if url.endswith((".png", ".jpg", ".jpeg")) else url


def _module(name: str, *, package: bool = False, **content: Any) -> None:
    if name in sys.modules:
        return
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=package)
    module.__dict__.update(content)
    sys.modules[name] = module


@cache
def _prepare_alias() -> None:
    # test_configuration_common loads its folder's __init__.py, which the source distribution leaves out.
    (SUITES / "__init__.py").touch(exist_ok=True)
    _module(ALIAS, package=True, __path__=[str(SUITES)])
    helpers: dict[str, dict[str, Any]] = {
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        # Read only for configurations without sub-configurations.
        "utils.test_configuration_utils": {"config_common_kwargs": {"return_dict": False, "dtype": "float16"}},
    }
    for name, content in helpers.items():
        folder, _ = name.split(".")
        if (SUITES / folder).is_dir():
            continue
        _module(f"{ALIAS}.{folder}", package=True, __path__=[])
        _module(f"{ALIAS}.{name}", **content)
    _module("fetch_hub_objects_for_ci", url_to_local_path=_url_to_local_path)


def common_suite(module: str, name: str) -> Any:
    """Return one class of transformers' common suites.

    Args:
        module: File name without `.py`, such as `"test_processing_common"`.
        name: Class in that file, such as `"ProcessorTesterMixin"`.

    Returns:
        The class, or, where the suites are not unpacked, a stand-in whose subclasses are skipped with the reason.
    """
    if not (SUITES / f"{module}.py").is_file():
        return _Missing
    _prepare_alias()
    return getattr(importlib.import_module(f"{ALIAS}.{module}"), name)
