# Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
"""A hook for MkDocs: pages of the site that are not in docs/, from the root of the repository and from docstrings.

Also an extension of griffe, which reads the docstrings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Page of the site: document of the repository.
DOCUMENTS = {
    "README.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "examples.md": "examples/README.md",
    "RESULTS.md": "benchmarks/RESULTS.md",
}
API = {
    "modeling_tgdt": ["modeling_tgdt"],
    "trainer": ["trainer"],
    "hub_cards": ["hub_cards.cards", "hub_cards.results", "hub_cards.tables", "hub_cards.sources"],
}
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_REFERENCE = re.compile(r"\[(`[^`\n]+`)\](?![\[(])")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents and one page per package."""
    for page, document in DOCUMENTS.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_site_links(text, document)))
    for package, modules in API.items():
        blocks = [f"::: {module}\n    options:\n      heading_level: 2\n" for module in modules]
        files.append(File.generated(config, f"api/{package}.md", content=f"# {package}\n\n" + "\n".join(blocks)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into links of the site."""
    if page.file.src_uri in DOCUMENTS:
        return markdown
    return _with_site_links(markdown, f"docs/{page.file.src_uri}")


class Docstrings(Extension):
    """Bring docstrings into the form that griffe reads."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Name examples as Google's style does, else they are not set as code, and unwrap references in brackets."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = _REFERENCE.sub(r"\1", text)


def _with_site_links(text: str, document: str) -> str:
    """Point links at pages of the site; of a file that has none only the text of the link stays."""

    def replaced(link: re.Match[str]) -> str:
        target = (ROOT / document).parent.joinpath(link[2]).resolve()
        inside = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        page = next((page for page, source in DOCUMENTS.items() if source == inside), None)
        if page is None and inside.startswith("docs/"):
            page = inside.removeprefix("docs/")
        return link[1] if page is None else f"[{link[1]}]({page}{link[3] or ''})"

    return _LINK.sub(replaced, text)
