"""What the paper asks for in its evaluations (appendix B.1), in our words."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "appendix B.1"


@dataclass(frozen=True)
class EvaluationPrompt:
    """What the assistant is told; `{ocr}` and `{options}` are the item's own.

    The system message names the assistant's role and ends with the modality tokens; the user's
    question follows.
    """

    benchmarks: tuple[str, ...]
    instruction: str
    source: str = SOURCE


PROMPTS = (
    EvaluationPrompt(
        ("VQAv2", "TextVQA", "OKVQA"),
        "Answer with one word and nothing before it.",
    ),
    EvaluationPrompt(
        ("VizWiz",),
        'Answer with one phrase, or "unanswerable" where the picture does not tell.',
    ),
    EvaluationPrompt(
        ("COCO",),
        "Caption the picture with one generic sentence, as JSON. Too specific: "
        '{"caption": "Anna rides her red Bianchi along Elm Street."} '
        'Right: {"caption": "A woman rides a bicycle down a street."}',
    ),
    EvaluationPrompt(
        ("ScienceQA",),
        "Answer with the letter of the right option.\n{options}",
    ),
    EvaluationPrompt(
        ("STAR", "How2QA", "NextQA"),
        "Answer with exactly one of the options.\n{options}",
    ),
    EvaluationPrompt(
        ("Hateful Memes",),
        'The picture carries the text "{ocr}". Is the meme hateful? Answer yes or no.',
    ),
    EvaluationPrompt(
        ("AudioCaps",),
        "Describe the sound.",
    ),
    EvaluationPrompt(
        ("Ego4D, held out",),
        "A head-mounted motion sensor recorded this. Describe the motion in under 30 words.",
    ),
)
