"""What was asked and answered, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from anymal_lib.demo.stages import Trial


def answers(trials: Sequence[Trial]) -> pd.DataFrame:
    """Questions, answers, whether they are right, what they rest on, and how long they took."""
    return pd.DataFrame(
        [
            {
                "question": trial.answered.question,
                "items": ", ".join(item.label for item in trial.answered.items),
                "answer": trial.answered.answer,
                "right": "yes" if trial.right else "no",
                "rests on": ", ".join(f"{w.rests:.0%}" for w in trial.answered.weights),
                "first word, s": round(trial.answered.first_word, 2),
                "answer, s": round(trial.answered.seconds, 2),
            }
            for trial in trials
        ]
    )
