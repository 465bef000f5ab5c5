"""Scores of captions against people's: CIDEr-D, ROUGE-L, BLEU, SPICE and SPIDEr.

All are COCO's (arXiv 1504.00325), computed by pycocoevalcap's scorers. COCO's tokenizer is a Java
program; `tokens` does in Python what that does to captions. SPICE exists in Java only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anymal_lib.errors import DataError

# Endings that are tokens of their own: is n't, dog 's.
_ENDING = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b|(?<=\bcan)(?=not\b)")
_TOKEN = re.compile(
    r"(?:[a-z]\.){2,}"  # p.m.
    r"|n't\b|'(?:s|re|ve|ll|d|m)\b"
    r"|\w+(?:(?:[-/']|(?<=\d)[.,:](?=\d))\w+)*"  # t-shirt, black/white, o'clock, 1,000, 3.5, 2:30
    r"|[$%#&+=]"
)
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def tokens(caption: str) -> str:
    """A caption's tokens between single blanks, lower case, as COCO's tokenizer gives them.

    That is the Penn Treebank's way without punctuation marks. Brackets are left out too, which
    COCO's tokenizer renames to words such as "-lrb-".
    """
    plain = caption.lower().replace("\u2019", "'")
    return " ".join(_TOKEN.findall(_ENDING.sub(r" \1", plain)))


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """CIDEr-D of a set (arXiv 1411.5726), 0-10: 1.0 is what papers print as 100.

    None for fewer than two items: document frequencies need a set. Below fifty items the value
    says little.
    """
    return float(cider_d_each(captions, references).mean()) if len(captions) > 1 else None


def cider_d_each(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each caption (items,), 0-10, with the document frequencies of the whole set."""
    from pycocoevalcap.cider.cider import Cider

    return np.asarray(Cider().compute_score(*_coco(captions, references))[1])


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L of each caption (items,), 0-1: F with beta 1.2 (Lin, 2004).

    As in COCO, precision and recall are each the best over the references.
    """
    from pycocoevalcap.rouge.rouge import Rouge

    return np.asarray(Rouge().compute_score(*_coco(captions, references))[1])


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """BLEU-1, -2, -3 and -4 of the whole set (Papineni et al., 2002), 0-1, not smoothed.

    A caption's length is compared with that of the reference closest to it, the shorter of two.
    """
    from pycocoevalcap.bleu.bleu import Bleu

    return tuple(map(float, Bleu(4).compute_score(*_coco(captions, references), verbose=0)[0]))


def spice_absence() -> str | None:
    """Why SPICE cannot be computed here; None where it can.

    It needs Java and two files of Stanford CoreNLP, which pycocoevalcap would fetch from their
    authors. Nothing here fetches them.
    """
    if shutil.which("java") is None:
        return "SPICE needs Java, which is not here"
    missing = [name for name in _SPICE_MODELS if not (_spice_folder() / name).is_file()]
    if missing:
        return f"SPICE needs {missing[0]}, which python -m {_FETCH} fetches"
    return None


_FETCH = "pycocoevalcap.spice.get_stanford_models"


def _spice_folder() -> Path:
    import pycocoevalcap.spice

    return Path(pycocoevalcap.spice.__file__).parent / "lib"


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray | None:
    """SPICE F of each caption (items,), 0-1 (arXiv 1607.08822); None as `spice_absence` says.

    Raises:
        DataError: it is there, and does not run.
    """
    if spice_absence() is not None:
        return None
    from pycocoevalcap.spice.spice import Spice

    try:
        found = Spice().compute_score(*_coco(captions, references))[1]
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            "SPICE",
            expected="a run of its Java program with 8 GB of memory",
            got=str(error),
            do="Use Java 8 with more memory, or leave SPICE and SPIDEr out of the metrics.",
        ) from error
    return np.nan_to_num(np.array([scores["All"]["f"] for scores in found], dtype=float))


def spider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray | None:
    """SPIDEr of each caption (items,): the mean of CIDEr-D and SPICE (arXiv 1612.00370).

    0-5.5; 0.5 is what papers print as 50. None where SPICE is not there: nothing takes its place.
    """
    scenes = spice(captions, references)
    return None if scenes is None else (cider_d_each(captions, references) + scenes) / 2


def _coco(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    truth = {k: [tokens(text) for text in texts] for k, texts in enumerate(references)}
    return truth, {k: [tokens(text)] for k, text in enumerate(captions)}
