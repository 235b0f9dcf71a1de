"""Every file of the golden folder is of exactly one kind, so that none is passed over in silence."""

import sys

import pytest


@pytest.mark.golden("*")
def test_each_fixture_is_recognised_by_its_content(golden) -> None:
    kinds = sys.modules[type(golden).__module__].kinds_of(golden)
    assert len(kinds) == 1, f"{golden.path.name}: {kinds or 'unknown'}"
