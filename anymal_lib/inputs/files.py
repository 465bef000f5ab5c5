"""What every kind of input checks: that its file is there, and that its window lies inside it."""

from __future__ import annotations

from pathlib import Path

from anymal_lib.errors import InputError

ENDS_EARLY_S = 0.5  # a sound or film may end this much before the length that its file states


def existing_file(source: str | Path) -> Path:
    """Return the path of a file that is there and not empty.

    Raises:
        InputError: an address, a folder, nothing there, or nothing in it.
    """
    path = Path(source).expanduser()
    try:
        if str(source).startswith(("http://", "https://")):
            got = "an address on the network"
        elif not path.is_file():
            got = "a folder" if path.is_dir() else "no such file"
        elif path.stat().st_size == 0:
            got = "an empty file (0 bytes)"
        else:
            return path
    except OSError as error:  # no permission, a name too long
        got = str(error)
    raise InputError(
        str(source),
        expected="a file on this machine with something in it",
        got=got,
        do="Check the path, or fetch the file again.",
    )


def checked_window(
    name: str, start: float | None, end: float | None, length: float, *, beyond: float
) -> tuple[float, float]:
    """Return start and end in seconds, the whole length where they are None.

    Args:
        name: the input, for the message.
        length: of the whole input, in seconds.
        beyond: seconds by which end may lie after the length, as lengths are rounded.

    Raises:
        InputError: the window is not inside the input, or ends before it starts.
    """
    first = 0.0 if start is None else float(start)
    last = length if end is None else float(end)
    if not (0 <= first < length and first <= last <= length + beyond):  # NaN fails too
        raise InputError(
            name,
            expected=f"start and end inside its {length:.3f} s",
            got=f"start {first:g} s, end {last:g} s",
            do="Correct the window; seconds count from the beginning.",
        )
    return first, last


def cut_off(name: str, wanted: float, at: float) -> InputError:
    """Build the error of a file that ends at a second before the wanted one."""
    return InputError(
        name,
        expected=f"a whole file, of {wanted:.3f} s or more",
        got=f"one that ends at {at:.3f} s",
        do="It was cut off: fetch it again, or select a window before that by start and end.",
    )
