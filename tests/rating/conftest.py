"""Folders of small studies."""

import pytest
from rated import items

from anymal_lib.rating import Study


@pytest.fixture
def pairs(tmp_path):
    """The folder of a study of six pairs."""
    return Study.pairs(items()).save(tmp_path)


@pytest.fixture
def rubric(tmp_path):
    """The folder of a study by the rubric: three items, two systems."""
    return Study.rubric(items(3)).save(tmp_path)
