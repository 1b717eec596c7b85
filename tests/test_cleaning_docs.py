"""The examples in docs/cleaning.md print what the page says, and its table names every kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailtriage.cleaning_view import KINDS

PAGE = (Path(__file__).parent.parent / "docs" / "cleaning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("first", [0, 2], ids=["a body", "a whole message"])
def test_the_examples_print_what_the_page_says(first: int) -> None:
    program, printed = re.findall(r"```(?:python)?\n(.*?)```", PAGE, re.DOTALL)[first : first + 2]

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert result.stdout == printed


def test_the_table_names_every_kind() -> None:
    table = PAGE.split("## Kinds")[1].split("##")[0]

    assert set(re.findall(r"`(\w+)`", table)) >= KINDS.keys()


def test_every_module_that_the_page_names_is_there() -> None:
    folder = Path(__file__).parent.parent / "mailtriage"

    assert all((folder / name).exists() for name in re.findall(r"`(\w+\.py)`", PAGE.split("## How it decides")[1]))
