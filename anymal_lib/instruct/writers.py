"""Language models that write synthetic data: one on this machine, or one behind an endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from anymal_lib.errors import AssetError, ConfigError, DataError
from anymal_lib.llm import PRECISIONS, FrozenLLM
from anymal_lib.prompt import render

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 4
TIMEOUT_S = 120  # a large model takes its time over a long answer
_LONGEST_WAIT_S = 60.0


class Writer(Protocol):
    """What writes texts to prompts."""

    @property
    def name(self) -> str:
        """Which model it is; stored with every text."""

    @property
    def batch(self) -> int:
        """How many prompts it takes at a time."""

    @property
    def settings(self) -> Mapping[str, float]:
        """What its texts depend on beside the model, the prompts and the seed."""

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """One text for each prompt; `seed` from 0 to 2^31."""


def _check(batch: int, temperature: float, top_p: float, max_new_tokens: int) -> None:
    checks = {
        "batch": (batch >= 1, "at least 1", batch),
        "temperature": (0 < temperature <= 2, "a number above 0, up to 2", temperature),
        "top_p": (0 < top_p <= 1, "a number above 0, up to 1", top_p),
        "max_new_tokens": (max_new_tokens >= 1, "at least 1", max_new_tokens),
    }
    for name, (good, expected, got) in checks.items():
        if not good:
            do = "Leave it out for the default."
            raise ConfigError(f"writer's {name}", expected=expected, got=repr(got), do=do)


@dataclass(frozen=True)
class LocalWriter:
    """Any language model of transformers, asked through its own chat template; it stays as it is.

    The same prompts in the same batch with the same seed give the same texts on one machine.
    """

    llm: FrozenLLM
    batch: int = 8
    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 160

    def __post_init__(self) -> None:
        _check(self.batch, self.temperature, self.top_p, self.max_new_tokens)

    @property
    def name(self) -> str:
        """The model's source, the beginning of its checksum, and its precision."""
        identity = self.llm.identity
        return f"{identity.source} {identity.sha256[:12]} {PRECISIONS[self.llm.bits]}"

    @property
    def settings(self) -> dict[str, float]:
        """Sampling, and the batch: padding moves the last bits of a text's probabilities."""
        return {
            "batch": self.batch,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Sample one text for each prompt, all of them as one batch, padded on the left.

        Raises:
            InputError: a prompt is empty or has a NUL character.
        """
        rows = [render(self.llm, [prompt]).pieces[0] for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        device = self.llm.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            texts = self.llm.model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                do_sample=True,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=0,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self._ends,
                pad_token_id=self.llm.end_of_turn,
            )
        return self.llm.tokenizer.batch_decode(texts[:, longest:], skip_special_tokens=True)

    @property
    def _ends(self) -> list[int]:
        """The tokens that end a text: the tokenizer's, and those that the model names itself."""
        own = self.llm.model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        return sorted({self.llm.end_of_turn, *own})


@dataclass(frozen=True)
class EndpointWriter:
    """A model behind an OpenAI-compatible chat endpoint, as vLLM, llama.cpp and others serve one.

    Whether the same seed gives the same text is up to the server.

    Attributes:
        url: up to and without "/chat/completions", for example "http://localhost:8000/v1".
        model: its name at that endpoint.
        key_variable: the environment variable that holds the key; None where none is needed.
        batch: prompts that are asked at the same time.
    """

    url: str
    model: str
    key_variable: str | None = None
    batch: int = 8
    temperature: float = 0.7
    top_p: float = 0.9
    max_new_tokens: int = 400

    def __post_init__(self) -> None:
        _check(self.batch, self.temperature, self.top_p, self.max_new_tokens)

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.model

    @property
    def settings(self) -> dict[str, float]:
        """Sampling."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Ask for one text for each prompt, all at the same time.

        A dropped connection and the answers 429 and 5xx are tried again, `ATTEMPTS` times in all.

        Raises:
            ConfigError: address, model or key are wrong.
            AssetError: no connection, or the endpoint stayed busy or broken.
            DataError: it answered with something else than a chat completion.
        """
        import httpx

        headers = self._headers()
        with (
            httpx.Client(headers=headers, timeout=TIMEOUT_S) as client,
            ThreadPoolExecutor(len(prompts)) as pool,
        ):
            # Prompts may be equal, and their texts should not be.
            seeds = [(seed + k) % 2**31 for k in range(len(prompts))]
            return list(pool.map(lambda *job: self._ask(client, *job), prompts, seeds))

    def _headers(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable, "").strip()
        # What an HTTP header cannot hold would come back inside an error message, key and all.
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"environment variable {self.key_variable}",
                expected=f"the key for {self.url}",
                got="something that is no key" if key else "nothing",
                do="Set it before the notebook starts; keep the key out of the notebook.",
            )
        return {"Authorization": f"Bearer {key}"}

    def _ask(self, client: httpx.Client, prompt: str, seed: int) -> str:
        import httpx

        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        for attempt in range(1, ATTEMPTS + 1):
            wait = 0.0
            try:
                answer = client.post(f"{self.url.rstrip('/')}/chat/completions", json=request)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise self._wrong(str(error), "Give it as http://host:port/v1.") from error
            except httpx.HTTPError as error:
                got = f"no answer ({type(error).__name__}: {error})"
            else:
                if answer.status_code != 429 and answer.status_code < 500:
                    return self._text(answer)
                got, wait = _status(answer), _asked_wait(answer)
            if attempt < ATTEMPTS:
                time.sleep(min(max(wait, 2.0 ** (attempt - 1)), _LONGEST_WAIT_S))
        raise AssetError(
            f"{self.url} (model {self.model})",
            expected="a chat completion",
            got=f"{got}, {ATTEMPTS} times",
            do="Check that the server runs and is not overloaded, then run again: it resumes.",
        )

    def _text(self, answer: httpx.Response) -> str:
        if answer.status_code in (401, 403):
            do = "Check the key in that variable, and that it may use this model."
            if self.key_variable is None:
                do = "Name the environment variable that holds the key as key_variable."
            raise self._wrong(f"{answer.status_code}, key refused", do)
        if answer.status_code != 200:
            do = "Check the address (it ends before /chat/completions) and the model's name."
            raise self._wrong(_status(answer), do)
        try:
            text = answer.json()["choices"][0]["message"]["content"]
            if text is None or isinstance(text, str):
                return text or ""  # a model may have nothing to say: a text without pairs
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise DataError(
            self.url,
            expected="JSON with choices[0].message.content",
            got=repr(answer.text[:200]),
            do="Use an endpoint that speaks OpenAI's chat completions.",
        )

    def _wrong(self, got: str, do: str) -> ConfigError:
        key = f", key in {self.key_variable}" if self.key_variable else ", no key"
        subject = f"{self.url} (model {self.model}{key})"
        return ConfigError(subject, expected="a chat completion", got=got, do=do)


def _status(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]!r}"


def _asked_wait(answer: httpx.Response) -> float:
    """Seconds that a busy server asks for; dates, which it may also send, count as none."""
    said = answer.headers.get("Retry-After", "")
    return float(said) if said.isdigit() else 0.0
