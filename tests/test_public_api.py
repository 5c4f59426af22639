# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""What `tests/public_api.json` records of the public API is still there: names, parameters, fields, methods.

Something may be added at any time. After a removal or a change on purpose, `python -m tests.test_public_api` writes
the file anew; the diff is for the changelog.
"""

import dataclasses
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedConfig, ProcessorMixin, Trainer, TrainingArguments

SNAPSHOT = Path(__file__).with_name("public_api.json")
MODULES = (
    "modeling_tgdt",
    "modeling_tgdt.convert_tgdt_original_to_hf",
    "trainer",
    "trainer.recipe",
    "hub_cards.cards",
)
BASES = (torch.nn.Module, PreTrainedConfig, ProcessorMixin, Trainer, TrainingArguments, transformers.utils.ModelOutput)


def exported(module: str) -> list[str]:
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name for name, value in vars(found).items() if getattr(value, "__module__", None) == module
    ]
    return sorted(name for name in names if not name.startswith("_"))


def describe(value: Any) -> Any:
    """Signature of a function; fields, constructor and public members of a class, those of our mixins included."""
    if not inspect.isclass(value):
        return parameters(value) if callable(value) else type(value).__name__
    ours = [value, *(base for base in value.__mro__ if base.__name__.endswith("Mixin") and "tgdt" in base.__module__)]
    own = {name: member for base in ours for name, member in vars(base).items() if not name.startswith("_")}
    result: dict[str, Any] = {"bases": [base.__name__ for base in value.__mro__[1:] if base in BASES]}
    if dataclasses.is_dataclass(value):
        inherited = {
            f.name for base in value.__mro__[1:] if dataclasses.is_dataclass(base) for f in dataclasses.fields(base)
        }
        result["fields"] = [field.name for field in dataclasses.fields(value) if field.name not in inherited]
    elif "__init__" in vars(value):
        result["init"] = parameters(value.__init__)
    result["methods"] = {
        name: parameters(getattr(value, name)) for name in sorted(own) if callable(getattr(value, name))
    }
    result["properties"] = sorted(name for name, member in own.items() if isinstance(member, property))
    return result


def parameters(function: Any) -> list[str]:
    """Names with `*` marks and defaults, without annotations, whose spelling differs between Python versions."""
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return [f"{'/' if p.kind is p.POSITIONAL_ONLY else '*, ' if p.kind is p.KEYWORD_ONLY else ''}{p}" for p in bare]


def snapshot() -> dict[str, Any]:
    return {
        module: {name: describe(getattr(importlib.import_module(module), name)) for name in exported(module)}
        for module in MODULES
    }


def lost(recorded: Any, found: Any, path: str = "") -> list[str]:
    """List what is recorded and no longer found."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        missing = [f"{path}.{name}" for name in recorded.keys() - found.keys()]
        kept = recorded.keys() & found.keys()
        return missing + [line for name in kept for line in lost(recorded[name], found[name], f"{path}.{name}")]
    if isinstance(recorded, list) and isinstance(found, list):
        return [f"{path}({item})" for item in recorded if item not in found]
    return [] if recorded == found else [f"{path}: {recorded!r} became {found!r}"]


@pytest.mark.parametrize("module", MODULES)
def test_the_recorded_api_is_there(module: str) -> None:
    gone = lost(json.loads(SNAPSHOT.read_text())[module], snapshot()[module], module)
    assert not gone, "changed on purpose? `python -m tests.test_public_api`, and a line in CHANGELOG.md"


def test_losses_are_noticed() -> None:
    recorded = {"f": ["a", "b=1"], "C": {"fields": ["x"], "methods": {"run": ["n=2"]}}, "gone": []}
    found = {"f": ["a", "b=2", "c"], "C": {"fields": ["x", "y"], "methods": {"run": "str"}}, "new": []}
    assert sorted(lost(recorded, found)) == [".C.methods.run: ['n=2'] became 'str'", ".f(b=1)", ".gone"]


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: str) -> None:
    for name in exported(module):
        value = getattr(importlib.import_module(module), name)
        if callable(value):
            assert inspect.getdoc(value), f"{module}.{name} has no docstring"
        for method in describe(value).get("methods", {}) if inspect.isclass(value) else ():
            assert inspect.getdoc(getattr(value, method)), f"{module}.{name}.{method} has no docstring"


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(), indent=1) + "\n")
