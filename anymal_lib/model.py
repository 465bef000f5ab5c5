"""AnyMAL: frozen encoders, trained adapters and a frozen LLM that reads their tokens.

Shape letters: b batch, q modality tokens, w width of the LLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymal_lib.adapters import build_adapter
from anymal_lib.bank import encode_aligned, encode_frozen
from anymal_lib.config import load_profile
from anymal_lib.encoders import Encoder
from anymal_lib.errors import InputError
from anymal_lib.llm import FrozenLLM, Prefix, join_masks, load_llm
from anymal_lib.modalities import modality_of
from anymal_lib.packing import Packed, pack, saves
from anymal_lib.progress import track
from anymal_lib.prompt import (
    Dialogue,
    Prompt,
    check_length,
    open_dialogue,
    render_dialogue,
    splice,
    split_prefix,
)
from anymal_lib.specs import ModalitySpec, Profile


class AnyMAL:
    """The whole model; only `adapters` ever learn.

    Build it with `from_profile` (fresh adapters) or `from_pretrained` (saved ones).
    """

    def __init__(self, llm: FrozenLLM, profile: Profile) -> None:
        self.llm = llm
        self.profile = profile
        self.encoders: dict[str, Encoder] = {}
        self.adapters = nn.ModuleDict()
        self.record: Mapping[str, Any] | None = None  # the metrics of saved adapters

    @classmethod
    def from_profile(cls, name: str | Profile, *, bits: int | None = None, seed: int = 0) -> AnyMAL:
        """The profile's LLM and aligned encoders with fresh adapters.

        Encoders that the profile aligns itself are trained on first use (a minute or two for
        `mini`) and cached. `bits` overrides the profile's precision of the LLM.
        """
        from anymal_lib.encoder_cache import ready_encoder
        from anymal_lib.sources import profile_manifest

        profile = load_profile(name) if isinstance(name, str) else name
        model = cls(load_llm(profile.llm, bits=bits or profile.bits), profile)
        for modality, spec in profile.modalities.items():
            manifest = profile_manifest(spec.manifest)
            model.add(modality, ready_encoder(profile, modality, manifest, seed).encoder, seed)
        return model

    @classmethod
    def from_pretrained(cls, place: str | Path, *, bits: int | None = None) -> AnyMAL:
        """A saved model from a folder or a hub id; see `anymal_lib.saving`."""
        from anymal_lib.saving import load

        return load(place, bits=bits)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write adapters (safetensors), the base model's identity and a model card."""
        from anymal_lib.saving import save

        return save(self, Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool = True) -> str:
        """Upload what `save_pretrained` writes; returns the repository's address."""
        from anymal_lib.saving import push

        return push(self, repo_id, private=private)

    def add(self, modality: str, encoder: Encoder, seed: int = 0) -> nn.Module:
        """Attach an encoder with a fresh adapter as the profile describes it; returns it."""
        spec = self.profile.modality(modality)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = build_adapter(
                spec.adapter,
                sequence_width=encoder.sequence_width,
                pooled_width=encoder.pooled_width,
                llm_width=self.llm.width,
                out_rms=self.llm.embedding_rms,
                grid=encoder.grid,
            )
        self.encoders[modality] = encoder.eval().requires_grad_(False).to(self.llm.device)
        self.adapters[modality] = adapter.to(self.llm.device)
        return self.adapters[modality]

    def spec(self, modality: str) -> ModalitySpec:
        """The profile's part for a modality that this model can read."""
        return self.profile.modality(modality)

    def response_loss(self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]) -> Tensor:
        """Mean over prompts of the mean negative log-likelihood of the answers' tokens.

        Logits are computed for these rows only. A mean per prompt makes gradient accumulation
        equal to one large batch.
        """
        losses = -self.log_likelihoods(prompts, modality_tokens)  # (k,)
        counts = torch.tensor([p.learned for p in prompts], device=losses.device)
        return (losses / counts.repeat_interleave(counts)).sum() / len(prompts)

    def log_likelihoods(
        self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]
    ) -> Tensor:
        """Log-likelihood of each learned token (k,), prompt by prompt."""
        packed, prefix, prompts = self._arranged(prompts, modality_tokens)
        if packed is not None:
            states = self.llm.hidden_packed(
                packed.embeddings, packed.mask, packed.positions, prefix
            )
            return self._of_rows(states, packed.rows, packed.targets)
        # Padding on the right needs no mask: causal attention never looks there.
        batch = splice(self.llm, prompts, modality_tokens, pad_left=False)
        states = self.llm.hidden(batch.embeddings, prefix=prefix)
        return self._of_rows(states, batch.rows, batch.targets)

    def _arranged(
        self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor]
    ) -> tuple[Packed | None, Prefix | None, Sequence[Prompt]]:
        """Packed rows where they pay, the constant before all rows where there is one, and what
        then remains of the prompts.
        """
        switches, llm = self.profile.step, self.llm
        if not switches.prefix:
            return None, None, prompts
        if llm.learns or saves(prompts, modality_tokens):
            packed = self._in_window(pack(llm, prompts, modality_tokens))
            if packed is not None or llm.learns:
                return packed, None, prompts
        texts, rest = zip(*map(split_prefix, prompts), strict=True)
        prefix, packed = llm.remember(texts), None
        if switches.unpad and len(set(texts)) == 1:
            packed = self._in_window(pack(llm, rest, modality_tokens, prefix))
        return packed, prefix, rest

    def _in_window(self, packed: Packed) -> Packed | None:
        """None where attention has a window that the mask of packed rows would have to know."""
        window = self.llm.window
        return packed if window is None or packed.positions.max() < window else None

    @torch.inference_mode()
    def score(self, prompts: Sequence[Prompt], spans: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Log-likelihoods of each prompt's learned tokens, one (learned,) tensor a prompt.

        `spans` holds the modality tokens of each prompt's items, (q, w) each. Prompts that begin
        alike and answers of similar length are read together.
        """
        order = sorted(range(len(prompts)), key=lambda k: (prompts[k].pieces, prompts[k].learned))
        found: dict[int, Tensor] = {}
        for chunk in self._batches(order, "reading"):
            batch = [prompts[k] for k in chunk]
            per_token = self.log_likelihoods(batch, [span for k in chunk for span in spans[k]])
            found.update(zip(chunk, per_token.split([p.learned for p in batch]), strict=True))
        return [found[k] for k in range(len(prompts))]

    def _of_rows(self, states: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        """States (b, t, w) -> log-likelihoods of the targets (k,) at flat positions `rows`."""
        flat = states.flatten(0, 1)
        if self.profile.step.caption_logits:
            logits = self.llm.logits(flat[rows])  # (k, v)
        else:
            logits = self.llm.logits(flat)[rows]
        return -F.cross_entropy(logits, targets, reduction="none")

    def encode(self, items: Sequence[Any]) -> list[Tensor]:
        """Raw items of any modality -> their modality tokens, (q, w) each, in order."""
        return [tokens for tokens, _ in self.sense(items)]

    @torch.inference_mode()
    def sense(self, items: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
        """Raw items of any modality -> their modality tokens (q, w) and pooled embeddings (e,)."""
        sensed: list[tuple[Tensor, Tensor] | None] = [None] * len(items)
        kinds = [self._modality_of(item) for item in items]
        for modality in sorted(set(kinds)):
            places = [k for k, kind in enumerate(kinds) if kind == modality]
            encoder = self.encoders[modality]
            prepared = [encoder.prepare(items[k]) for k in places]
            frozen = encode_frozen(encoder, prepared, self.profile.encode_batch)
            features = encode_aligned(encoder, frozen)
            spans = self.adapters[modality](features)
            for k, span, pooled in zip(places, spans, features.pooled, strict=True):
                sensed[k] = (span, pooled)
        return sensed  # type: ignore[return-value]

    def generate(
        self, prompt: Sequence[Any] | Dialogue | str, *, max_new_tokens: int = 32
    ) -> str | list[str]:
        """Answer a prompt, or a batch of prompts, greedily.

        A prompt is a text, a list of texts and items in any order and number, for example
        `["What is this person doing? ", Imu(array, rate=50)]`, or a `Dialogue` of several turns;
        a list of lists or dialogues is a batch. Raises `InputError` for an empty prompt or an item
        that cannot be read.
        """
        if not isinstance(prompt, list | tuple | Dialogue):  # one text, or one item alone
            return self.generate([[prompt]], max_new_tokens=max_new_tokens)[0]
        if isinstance(prompt, Dialogue):
            return self.generate([prompt], max_new_tokens=max_new_tokens)[0]
        if not prompt or not all(isinstance(part, list | tuple | Dialogue) for part in prompt):
            return self.generate([list(prompt)], max_new_tokens=max_new_tokens)[0]
        dialogues = [open_dialogue(part) for part in prompt]
        prompts = [render_dialogue(self.llm, d, system=self.profile.system) for d in dialogues]
        items = [item for dialogue in dialogues for item in dialogue.items]
        return self.respond(prompts, self.encode(items), max_new_tokens=max_new_tokens)

    def stream(
        self, prompt: Sequence[Any] | Dialogue | str, *, max_new_tokens: int = 32
    ) -> Iterator[str]:
        """Answer one prompt as `generate` does, piece by piece as the tokens come.

        The pieces joined are the text of `generate`. Raises `InputError` as `generate`, before
        the first piece.
        """
        from anymal_lib.streaming import stream_response

        if not isinstance(prompt, list | tuple | Dialogue):
            prompt = [prompt]
        dialogue = open_dialogue(prompt)
        rendered = render_dialogue(self.llm, dialogue, system=self.profile.system)
        tokens = self.encode(dialogue.items)
        return stream_response(self, rendered, tokens, max_new_tokens=max_new_tokens)

    @torch.inference_mode()
    def respond(
        self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor], *, max_new_tokens: int
    ) -> list[str]:
        """Greedy responses to rendered prompts; modality tokens in the order of all items.

        Prompts of similar length are generated together; padding is on the left and masked, so
        an answer does not depend on its neighbours.
        """
        check_length(max_new_tokens)
        spans, start = [], 0
        for prompt in prompts:
            spans.append(modality_tokens[start : start + prompt.items])
            start += prompt.items
        length = [sum(map(len, p.pieces)) + sum(map(len, s)) for p, s in zip(prompts, spans)]  # noqa: B905
        # Prompts of one length and beginning side by side: nothing is padded, and it is read once.
        order = sorted(range(len(prompts)), key=lambda k: (length[k], prompts[k].pieces[0]))
        answers: dict[int, str] = {}
        for chunk in self._batches(order, "answering"):
            ids = self._greedy(
                [prompts[k] for k in chunk],
                [span for k in chunk for span in spans[k]],
                max_new_tokens,
            )
            texts = (self.llm.text(row).strip() for row in ids.tolist())
            answers.update(zip(chunk, texts, strict=True))
        return [answers[k] for k in range(len(prompts))]

    def _batches(self, order: list[int], what: str) -> Iterator[list[int]]:
        size = self.profile.eval_batch
        chunks = (order[first : first + size] for first in range(0, len(order), size))
        return track(chunks, what, total=len(order), unit="prompts", count=len)

    def _greedy(
        self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor], max_new_tokens: int
    ) -> Tensor:
        """Most likely tokens of one batch: (b, up to max_new_tokens), ended rows filled up."""
        said = torch.full((len(prompts), max_new_tokens), self.llm.end_of_turn)
        steps = 0
        for places, best in self.most_likely(prompts, modality_tokens, max_new_tokens):
            said[places, steps] = best
            steps += 1
        return said[:, :steps]

    def most_likely(
        self, prompts: Sequence[Prompt], modality_tokens: Sequence[Tensor], max_new_tokens: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Decode one batch greedily: which rows (k,), and their next tokens (k,), step by step.

        Rows that have ended leave the batch once they are half of it.
        """
        from transformers.cache_utils import DynamicCache

        texts, rest = zip(*map(split_prefix, prompts), strict=True)
        batch, prefix = splice(self.llm, rest, modality_tokens, pad_left=True), None
        if batch.mask is None:
            prefix = self.llm.remember(texts)
        else:  # padding between a prefix and the rest would shift windows of attention
            batch = splice(self.llm, prompts, modality_tokens, pad_left=True)
        embeddings = batch.embeddings
        cache = DynamicCache() if prefix is None else prefix.cache(len(prompts))
        mask = join_masks(batch.mask, prefix, *embeddings.shape[:2])
        places = torch.arange(len(prompts))  # of the rows that are still in the batch
        going = torch.ones(len(prompts), dtype=torch.bool, device=self.llm.device)
        for _ in range(max_new_tokens):
            hidden = self.llm.read(embeddings, mask, cache).last_hidden_state
            best = self.llm.logits(hidden[:, -1]).argmax(-1)
            best = best.masked_fill(~going, self.llm.end_of_turn)
            yield places, best.cpu()
            going = best != self.llm.end_of_turn
            if not going.any():
                return
            if 2 * going.sum() <= len(going):
                cache.batch_select_indices(going.nonzero().squeeze(1))
                places, mask = places[going.cpu()], None if mask is None else mask[going]
                best, going = best[going], going[going]
            embeddings = self.llm.embed(best[:, None])
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)

    def _modality_of(self, item: Any) -> str:
        modality = modality_of(item)
        if modality not in self.encoders:
            raise InputError(
                f"prompt item of type {type(item).__name__}",
                expected=f"text or an item of {sorted(self.encoders)}",
                got=f"{modality or type(item).__name__}",
                do="Wrap the input, for example Image(path), or load a model with this modality.",
            )
        return modality
