"""`docs/lint.md` shows the tables of the code. To rewrite it: `python tests/export/test_lint_docs.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_export._lint import rule_markdown, target_markdown

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"
TABLES = {"rules": rule_markdown, "targets": target_markdown}


def rewritten(text: str) -> str:
    """The page with the tables of the code."""
    for name, make in TABLES.items():
        head, rest = text.split(f"<!-- {name} -->", 1)
        text = f"{head}<!-- {name} -->\n{make()}\n<!-- /{name} -->" + rest.split(f"<!-- /{name} -->", 1)[1]
    return text


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_page_shows_the_table_of_the_code(name):
    assert f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->" in PAGE.read_text()


def test_rewriting_changes_nothing_else():
    assert rewritten(PAGE.read_text()) == PAGE.read_text()


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
