"""Faults are told in sentences."""

from __future__ import annotations

import pytest

from budgerigar.errors import BudgieError


@pytest.mark.parametrize(
    ("remedy", "end"),
    [
        ("check its name", "Check its name."),
        ("a checkpoint is written; budgie resumes", "A checkpoint is written; budgie resumes."),
        ("add it: here", "Add it: here."),
        ("budgie recipes list shows them", "budgie recipes list shows them."),
        ("pip install budgerigar", "pip install budgerigar."),
        ("--set epochs=3 does", "--set epochs=3 does."),
        ("data.classes lists them", "data.classes lists them."),
        ("epochs=3 is a number", "epochs=3 is a number."),
        ("did you mean that?", "Did you mean that?"),
        ("", ""),
    ],
)
def test_a_remedy_is_a_sentence_unless_a_command_or_a_name_begins_it(remedy, end):
    error = BudgieError("it went wrong", why="something was so", remedy=remedy)
    assert str(error) == f"it went wrong: something was so. {end}".strip()
    assert error.remedy == remedy
