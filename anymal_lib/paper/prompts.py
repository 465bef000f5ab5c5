"""What the paper asks for in its evaluations (appendix B.1), in our words."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "appendix B.1"


@dataclass(frozen=True)
class EvaluationPrompt:
    """What the assistant is told; `{options}` are the item's own, one a line.

    The system message names the assistant's role and ends with the modality tokens; the user's
    question follows.
    """

    benchmarks: tuple[str, ...]
    instruction: str
    source: str = SOURCE


QUESTIONS = EvaluationPrompt(
    ("VQAv2", "TextVQA", "OKVQA"),
    "Answer with one word and nothing before it.",
)
BLIND_PEOPLES_QUESTIONS = EvaluationPrompt(
    ("VizWiz",),
    'Answer with one phrase, or "unanswerable" where the picture does not tell.',
)
IMAGE_CAPTIONS = EvaluationPrompt(
    ("COCO",),
    "Caption the picture with one generic sentence, as JSON. Too specific: "
    '{"caption": "Anna rides her red Bianchi along Elm Street."} '
    'Right: {"caption": "A woman rides a bicycle down a street."}',
)
SCHOOL_QUESTIONS = EvaluationPrompt(
    ("ScienceQA",),
    "Answer with the letter of the right option.\n{options}",
)
VIDEO_QUESTIONS = EvaluationPrompt(
    ("STAR", "How2QA", "NextQA"),
    "Answer with exactly one of the options.\n{options}",
)
MEMES = EvaluationPrompt(
    ("Hateful Memes",),
    "The picture carries the text that the question gives. Answer yes or no.",
)
AUDIO_CAPTIONS = EvaluationPrompt(
    ("AudioCaps",),
    "Describe the sound.",
)
IMU_CAPTIONS = EvaluationPrompt(
    ("Ego4D, held out",),
    "A head-mounted motion sensor recorded this. Describe the motion in under 30 words.",
)

PROMPTS = (
    QUESTIONS,
    BLIND_PEOPLES_QUESTIONS,
    IMAGE_CAPTIONS,
    SCHOOL_QUESTIONS,
    VIDEO_QUESTIONS,
    MEMES,
    AUDIO_CAPTIONS,
    IMU_CAPTIONS,
)
