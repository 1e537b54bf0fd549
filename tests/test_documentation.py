"""README.md, docs/ and their neighbors: links resolve, named files exist, documented commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.test_layers import LAYERS
from vlmcomp import __version__
from vlmcomp.cli.generated_docs import _MARKER
from vlmcomp.cli.main import make_parser
from vlmcomp.cli.space import PUSHED_PATHS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(ROOT.glob("docs/*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_PATH = re.compile(r"`((?:vlmcomp|tests|examples|docs|assets)/[\w./-]+|[\w/]+/\w+\.py)`")


def _links(document: Path) -> list[str]:
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(prose) if not re.match(r"https?:", link)]


def _anchors(document: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a document."""
    prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(document: Path) -> list[str]:
    blocks = [code for language, code in _FENCE.findall(document.read_text(encoding="utf-8")) if language == "sh"]
    lines = [re.sub(r"^\w+=\S+ ", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("vlmcomp ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    for link in _links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in _anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document: Path) -> None:
    for name in _PATH.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or (ROOT / "vlmcomp" / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_parse(document: Path) -> None:
    for command in _commands(document):
        words = shlex.split(command, comments=True)[1:]
        make_parser()[0].parse_args(words)


def test_the_readme_is_short_and_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    links = {(ROOT / link).resolve() for link in _links(ROOT / "README.md")}
    assert set(PAGES) <= links


def test_no_generated_block_is_shown_twice() -> None:
    names = [
        name
        for document in DOCUMENTS
        for name in dict.fromkeys(_MARKER.findall(_FENCE.sub("", document.read_text(encoding="utf-8"))))
    ]
    assert sorted(names) == sorted(set(names))


def test_a_space_gets_what_its_readme_links_to() -> None:
    for link in _links(ROOT / "README.md"):
        path = link.partition("#")[0]
        assert any(path == pushed or f"{path}/".startswith(pushed) for pushed in PUSHED_PATHS), link


def test_the_architecture_page_shows_the_layers() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [set(re.findall(r"`(\w+)`", line.split(" | ")[0])) for line in page.splitlines() if line.startswith("| `")]
    assert rows == [set(names) for layer, names in sorted(LAYERS.items()) if "" not in names]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert citation["license"] == "Apache-2.0" and citation["authors"] == [{"name": "vlmcomp developers"}]
