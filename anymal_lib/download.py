"""Stream one address into a partial file, and go on where an earlier attempt stopped."""

from __future__ import annotations

import time
from pathlib import Path

from anymal_lib.errors import AssetError
from anymal_lib.progress import Progress

ATTEMPTS = 5
TIMEOUT_S = 30


def download(url: str, part: Path) -> None:
    """Append to ``part`` until it holds all of ``url``. The caller checks the checksum.

    A dropped connection is taken up again with a Range request, up to `ATTEMPTS` times; after
    that ``part`` stays, and the next call resumes. A server without Range starts over.

    Raises:
        AssetError: the address is wrong, refused (4xx), or kept failing.
    """
    import httpx

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(url, part)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 500
            hopeless = isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol)
            if hopeless or status < 500 or attempt == ATTEMPTS:
                raise AssetError(
                    url,
                    expected="an answer with the whole file",
                    got=f"{type(error).__name__} ({error}) at attempt {attempt}",
                    do="Check the address and the network, then run again: it resumes.",
                ) from error
            time.sleep(0.2 * attempt)


def _attempt(url: str, part: Path) -> None:
    import httpx

    have = part.stat().st_size if part.exists() else 0
    # A Range counts bytes on the wire, so they must not be compressed on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with httpx.stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S
    ) as answer:
        if answer.status_code == 416:  # nothing after what we have: the checksum will judge
            return
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        total = (have + int(answer.headers.get("Content-Length", 0))) / 1e6 or None
        with (
            part.open("ab" if have else "wb") as file,
            Progress(Path(answer.url.path).name, total, "MB", done=have / 1e6) as progress,
        ):
            for chunk in answer.iter_raw():
                file.write(chunk)
                have += len(chunk)
                progress(have / 1e6)
