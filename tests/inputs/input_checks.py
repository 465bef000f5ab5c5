"""Shared by the tests of raw inputs."""

import pytest

from anymal_lib.errors import InputError


def refused(read, *says):
    """Whatever reads an input (or an input with a `load`) must refuse it, and say these words."""
    with pytest.raises(InputError) as error:
        getattr(read, "load", read)()
    for words in says:
        assert str(words) in str(error.value)
    return error.value
