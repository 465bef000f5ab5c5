"""The one exception family of the kit.

Every message names the input, what was expected, what came, and the next thing to do.
"""

from __future__ import annotations


class AnyMALError(Exception):
    """Something the kit refuses, with the reason and the way out.

    Args:
        subject: the input at fault, as the user knows it (a file, a line, a parameter).
        expected: what would have been accepted.
        got: what came instead.
        do: the next thing to do, a full sentence.
    """

    def __init__(self, subject: str, *, expected: str, got: str, do: str) -> None:
        super().__init__(subject, expected, got, do)
        self.subject = subject
        self.expected = expected
        self.got = got
        self.do = do

    def __str__(self) -> str:
        return f"{self.subject}: expected {self.expected}, but got {self.got}. {self.do}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions travel between worker processes by pickle, which by default calls the
        # class with positional arguments only and would fail on our keywords.
        return _rebuild, (type(self), self.subject, self.expected, self.got, self.do)


def _rebuild(
    kind: type[AnyMALError], subject: str, expected: str, got: str, do: str
) -> AnyMALError:
    return kind(subject, expected=expected, got=got, do=do)


class AssetError(AnyMALError):
    """A pinned file cannot be had: no network, wrong checksum, missing member."""


class ManifestError(AnyMALError):
    """A card or its rows break the manifest contract."""


class InputError(AnyMALError):
    """A raw image, sensor recording, sound or clip cannot be read or converted."""


class ConfigError(AnyMALError):
    """A profile or notebook parameter has an unknown name or a value outside its range."""


class DataError(AnyMALError):
    """Training or evaluation cannot go on with the data it meets at run time."""


class GroundingError(AnyMALError):
    """A model does not read one of its inputs: it says the same whatever it is given."""
