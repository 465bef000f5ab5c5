"""One table of tasks: prompt, decoding and metrics of every benchmark.

The paper states the prompts of its evaluations (appendix B.1), and trains with another layout,
`[<instruction> <modality_tokens>]` (section 3.2). The two tasks without one of its prompts ask
exactly as this kit trains: "captions" as notebooks 02 to 05, "questions" as notebook 06.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from anymal_lib.paper import prompts
from anymal_lib.paper.prompts import EvaluationPrompt
from anymal_lib.rows import Row
from anymal_lib.specs import Profile


@dataclass(frozen=True)
class Task:
    """What is asked, how the answer is decoded, and what it is scored with.

    Attributes:
        name: its key in `TASKS`.
        about: what of a row is the truth: its captions, its answers, or the right of its options.
        metrics: names of `metrics.named.METRICS`.
        prompt: the paper's; None asks as in training.
        max_new_tokens: of a response (ours); None takes the profile's, as in training.
        reply: how an answer is given: as it stands, as JSON with a caption, or as a letter.
        decoding: the paper states none, so the most likely token everywhere (ours).
    """

    name: str
    about: Literal["captions", "answers", "options"]
    metrics: tuple[str, ...]
    prompt: EvaluationPrompt | None = None
    max_new_tokens: int | None = None
    reply: Literal["text", "json", "letter"] = "text"
    decoding: Literal["greedy"] = "greedy"

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The paper's benchmarks that are asked so; none for the kit's own tasks."""
        return self.prompt.benchmarks if self.prompt else ()

    @property
    def place(self) -> str:
        """Where the modality tokens stand."""
        return "end of the system message" if self.prompt else "after the question"

    def fits(self, row: Row) -> bool:
        """Whether a row holds what the task asks and scores."""
        if self.about == "captions":
            return bool(row.text)
        asked = row.question is not None and bool(row.answers)
        return asked and (self.about == "answers" or 0 < len(row.options) <= len(ascii_uppercase))

    def truth(self, row: Row) -> tuple[str, ...]:
        """What people say of the row: captions, or answers."""
        return row.text if self.about == "captions" else row.answers

    def limit(self, profile: Profile, modality: str) -> int:
        """How many tokens a response may have."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.about == "captions":
            return profile.modality(modality).max_new_tokens
        return profile.finetuning.max_new_tokens

    def parts(self, profile: Profile, row: Row, item: Sequence[Any]) -> tuple[list, list]:
        """Texts and items of the system message, and of the user's.

        `item` holds the row's item, or nothing for a prompt without one. A caption is asked for
        with the modality's first instruction, the one that alignment trained with.
        """
        captions = self.about == "captions"
        asked = profile.modality(row.modality).instructions[0] if captions else row.question
        if self.prompt is None:
            return [profile.system], [f"{asked} ", *item]
        told = self.prompt.instruction.replace("{options}", listed(row.options))
        return [f"{profile.system} {told} ", *item], [asked]

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Each option as the model would give it, for log-likelihoods."""
        return tuple(ascii_uppercase[: len(row.options)]) if self.reply == "letter" else row.options

    def read(self, response: str) -> str:
        """The answer in a response."""
        return json_caption(response) if self.reply == "json" else response


def listed(options: Sequence[str]) -> str:
    """Options with their letters, one a line."""
    return "\n".join(f"({ascii_uppercase[k]}) {option}" for k, option in enumerate(options))


def json_caption(response: str) -> str:
    """The caption in a response like {"caption": "..."}, cut off or not; else the response."""
    found = re.search(r'"caption"\s*:\s*"((?:[^"\\]|\\.)*)', response)
    if found is None:
        return response
    try:
        return json.loads(f'"{found[1]}"')
    except ValueError:
        return found[1]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("captions", "captions", ("cider_d", "rouge_l", "bleu_4", "spider")),
        Task("questions", "answers", ("vqa_accuracy", "exact_match")),
        Task("coco", "captions", ("cider_d",), prompts.IMAGE_CAPTIONS, 64, "json"),
        Task("vqa", "answers", ("vqa_accuracy",), prompts.QUESTIONS, 10),
        Task("vizwiz", "answers", ("vqa_accuracy",), prompts.BLIND_PEOPLES_QUESTIONS, 16),
        Task(
            "science-qa",
            "options",
            ("choice_accuracy", "likelihood_accuracy"),
            prompts.SCHOOL_QUESTIONS,
            8,
            "letter",
        ),
        Task(
            "video-qa",
            "options",
            ("choice_accuracy", "likelihood_accuracy"),
            prompts.VIDEO_QUESTIONS,
            48,
        ),
        Task("hateful-memes", "options", ("auc", "choice_accuracy"), prompts.MEMES, 4),
        Task(
            "audio-captions", "captions", ("cider_d", "spice", "spider"), prompts.AUDIO_CAPTIONS, 48
        ),
        Task("imu-captions", "captions", ("cider_d", "rouge_l"), prompts.IMU_CAPTIONS, 64),
    )
}
