"""What the tests of bad input share."""

from contextlib import contextmanager

import pytest

from brain_tumor.io.errors import BrainTumorError


@contextmanager
def raises(code, *parts):
    """Expect a BrainTumorError with this code whose message names all `parts` (a file, a value)."""
    with pytest.raises(BrainTumorError) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code!r}: {caught.value}"
    missing = [part for part in parts if str(part) not in str(caught.value)]
    assert not missing, f"{missing} not named in: {caught.value}"
