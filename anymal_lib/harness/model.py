"""The class that lmms-eval makes and asks. Needs lmms-eval; what it does is in `answering`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms

from anymal_lib.errors import ConfigError
from anymal_lib.harness import answering
from anymal_lib.harness.answering import Request
from anymal_lib.harness.settings import load_model, read_arguments, read_generation


class AnyMALModel(lmms):
    """AnyMAL behind lmms-eval's interface for simple models.

    Its arguments are those of `settings.Arguments`; `AnyMALError` for others.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        asked = read_arguments(arguments)
        self.model = load_model(asked)
        self.batch = asked.batch_size or self.model.profile.eval_batch

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Greedy answers, in the order of the requests."""
        asked, generations = [], []
        for text, settings, visuals, *place in (request.args for request in requests):
            asked.append(self._request(text, visuals, place))
            generations.append(read_generation(settings))
        return answering.generate(self.model, asked, generations, batch=self.batch)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Each continuation's loss, and whether it is the greedy one, as a pair in `text`.

        The loss and not its negative, whatever the name: lmms-eval 0.7 takes the choice with the
        smallest number, and its own models give the mean loss of the tokens.
        """
        asked, continuations = [], []
        for text, said, visuals, *place in (request.args for request in requests):
            asked.append(self._request(text, visuals, place))
            continuations.append(said(self._document(*place)) if callable(said) else said)
        found = answering.losses(self.model, asked, continuations, batch=self.batch)
        # lmms-eval 0.7.3 turns a bare pair into a text, and then fails on it.
        return [GenerationResult(pair) for pair in found]  # type: ignore[arg-type]

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Not supported: raises `ConfigError`."""
        raise _unsupported("generate_until_multi_round")

    def generate_visual_cot(self, requests: list[Instance]) -> NoReturn:
        """Not supported, as AnyMAL draws nothing: raises `ConfigError`."""
        raise _unsupported("generate_visual_cot")

    def _request(
        self, text: str, visuals: Callable[[Any], Any] | None, place: Sequence[Any]
    ) -> Request:
        document, task, split = place

        def opened() -> Sequence[Any]:
            found = visuals(self._document(*place)) if callable(visuals) else visuals
            if found is None:
                return []
            return found if isinstance(found, list | tuple) else [found]

        return Request(text, opened, (task, split, document))

    def _document(self, document: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][document]


def _unsupported(kind: str) -> ConfigError:
    return ConfigError(
        "lmms-eval task",
        expected="requests of the kinds generate_until or loglikelihood",
        got=kind,
        do="Leave this task out of --tasks.",
    )
