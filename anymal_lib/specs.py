"""What a profile is made of: frozen dataclasses, every field explained.

Fields marked *Table 12* carry the paper's value (arXiv 2309.16058, appendix B.3). Fields marked
*ours* are choices that the paper does not state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from anymal_lib.assets import HubAsset, WheelAsset
from anymal_lib.errors import ConfigError

Bits = Literal[32, 16, 8, 4]


@dataclass(frozen=True)
class AdapterSpec:
    """The trained projection of one modality into the LLM's embedding space."""

    kind: Literal["resampler", "linear"]  # resampler for images and video, linear for the rest
    tokens: int  # modality tokens, fixed per adapter (Table 12)
    layers: int = 1  # resampler layers (Table 12); a linear adapter has one
    width: int = 512  # resampler width (ours)
    heads: int = 8  # resampler attention heads (ours)


@dataclass(frozen=True)
class TrainSpec:
    """One training run: AdamW, linear warm-up, cosine decay to zero (all three ours)."""

    batch: int  # samples per optimizer step (Table 12)
    learning_rate: float  # peak (Table 12)
    steps: int  # optimizer steps (Table 12)
    warmup: float = 0.05  # share of the steps (ours)
    weight_decay: float = 0.01  # ours
    grad_clip: float = 1.0  # largest gradient norm (ours)
    micro_batch: int | None = None  # samples per forward pass; None: the whole batch at once
    checkpoint_every: int = 50  # steps between checkpoints (ours)

    @property
    def samples(self) -> int:
        """Samples that the run reads."""
        return self.batch * self.steps


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank weights beside every linear layer of the LLM (Table 12; no dropout: ours)."""

    rank: int  # Table 12: 64
    alpha: int  # Table 12: 16
    # The first decoder layer with such weights; those below stay as they are (Table 12: 0, all).
    first_layer: int = 0


@dataclass(frozen=True)
class FinetuneSpec:
    """Fine-tuning on multimodal instructions (paper, section 3.3), without LoRA and with.

    The mixture's parts are the modalities' questions and "negated", "captions", "dialogues",
    "pairs", "comparisons" and "negated comparisons" (of words, without items), "told" (what a text
    says of an item) and "general" (what no item answers); see `anymal_lib.instruct.mixture`.
    """

    projection: TrainSpec  # the adapters alone
    lora_train: TrainSpec  # LoRA, and adapters that learn beside it, from the aligned ones too
    lora: LoraSpec
    questions: dict[str, str]  # modality -> manifest that holds its questions, or its facts
    weights: dict[str, float]  # part of the mixture -> how often it is drawn, relatively (ours)
    # Part -> share of the run that is over when it joins the others (ours).
    joins: dict[str, float] = field(default_factory=dict)
    # Part -> share of its examples that come without their items: what may be said without any is
    # learned too (ours). Not where the LLM stays as it is.
    item_dropout: dict[str, float] = field(default_factory=dict)
    # Whether adapters learn beside LoRA, as in the paper. If not, they stay as `words` left them,
    # and below LoRA's first layer there is no backward pass (ours).
    adapters_learn: bool = True
    # Before that: adapters fitted to the embeddings of words, and LoRA to comparisons of words
    # alone. None: without (both ours).
    words: TrainSpec | None = None
    comparisons: TrainSpec | None = None
    # Mean loss of the last tenth of the steps of `comparisons` that ends it, from its middle on;
    # None: it goes on to its last step (ours).
    compared: float | None = None
    same_question: int = 8  # items of a batch that are asked the same thing (ours)
    max_new_tokens: int = 6  # of an answer


@dataclass(frozen=True)
class StepSpec:
    """What makes a training step cheap (all ours). Every switch leaves the result as it is, up to
    rounding; off is the plain path that notebook 11 measures it against.
    """

    caption_logits: bool = True  # logits of the response's tokens only, not of every position
    prefix: bool = True  # text before the first item read once: constant while the LLM is frozen
    sort_micro_batches: bool = True  # samples of a step by length, so that less is padded
    unpad: bool = True  # prompts after a constant prefix share rows, so that little is padded
    cache_features: bool | None = None  # keep encoded rows; None: where they fit into memory
    keep_memory: bool = True  # freed memory stays with the process, where the C library can
    compile: bool | None = None  # decoder layers; None: when the planned steps repay it


@dataclass(frozen=True)
class ImageEncoderSpec:
    """A frozen image encoder.

    `open_clip` names a model of open_clip with its `pretrained` tag; `timm` names a trunk that is
    not aligned to text (DINOv2, the paper's control). `trunk_asset` and `text_asset` build the
    two-tower model of the mini profile, whose head is aligned here with `align`.
    """

    open_clip: str | None = None
    pretrained: str | None = None
    timm: str | None = None
    trunk_asset: WheelAsset | None = None
    text_asset: WheelAsset | None = None
    image_size: int = 224  # pixels a side; open_clip's own size wins for its pretrained models
    bf16: bool | None = None  # type of the frozen part; None: bf16 where this machine is fast at it
    align: TrainSpec | None = None


@dataclass(frozen=True)
class ImuEncoderSpec:
    """IMU2CLIP's encoder (arXiv 2210.14395), trained here: no weights were ever released."""

    align: TrainSpec
    rate: float = 200.0  # Hz, what signals are resampled to (IMU2CLIP: 200)
    window: float = 5.0  # seconds that one token block describes (IMU2CLIP: 5)
    width: int = 512  # GRU state (IMU2CLIP: 512)
    text_asset: WheelAsset | None = None  # frozen text tower it is aligned to
    text_model: str | None = None  # or an open_clip model's text tower: "name/pretrained"


@dataclass(frozen=True)
class AudioEncoderSpec:
    """LAION-CLAP's audio tower, HTSAT (arXiv 2211.06687).

    `checkpoint` is one of its published files, from the hub or from disk; everything but the
    tokenizer is then read from it. Without one the tower is as small as the fields below say, and
    aligned here with `align`. Defaults are those of the published models.
    """

    checkpoint: HubAsset | str | None = None
    tokenizer: str = "roberta-base"  # of the published text tower
    text_asset: WheelAsset | None = None  # frozen text tower that a tower of our own is aligned to
    align: TrainSpec | None = None
    rate: int = 48_000  # Hz
    seconds: float = 10.0  # of sound that is heard at once: longer is cropped, shorter repeated
    window: int = 1024  # samples of one spectrum
    hop: int = 480  # samples from one spectrum to the next
    mel_bins: int = 64
    mel_range: tuple[int, int] = (50, 14_000)  # Hz
    floor: float = -100.0  # dB; what is more silent is as silent (CLAP: -100)
    spectrogram: int = 256  # side of the square that a spectrogram is folded into
    width: int = 96  # of the first stage; it doubles from stage to stage
    depths: tuple[int, ...] = (2, 2, 6, 2)  # layers of each stage
    heads: tuple[int, ...] = (4, 8, 16, 32)  # attention heads of each stage
    positions: bool = False  # learned absolute positions of the spectrogram's patches


@dataclass(frozen=True)
class VideoEncoderSpec:
    """An image encoder on some frames of a clip (the paper: 4), or a video model from the hub."""

    frames: int = 4  # at the centres of as many equal parts of the clip
    image: ImageEncoderSpec | None = None
    hub: HubAsset | None = None  # InternVideo2's interface: see `anymal_lib.encoders.video`
    align: TrainSpec | None = None  # of the image encoder's head, where it is trained here


@dataclass(frozen=True)
class ModalitySpec:
    """Encoder, adapter, data and training of one modality.

    `encoder` is the spec that the modality is registered with, for example `ImageEncoderSpec`.
    """

    encoder: Any
    adapter: AdapterSpec
    align: TrainSpec
    manifest: str  # folder below data_manifests/
    instructions: tuple[str, ...]  # alignment prompts (ours); the first is used in evaluation
    max_new_tokens: int = 24


@dataclass(frozen=True)
class Profile:
    """Everything that a run at one scale needs to know."""

    name: str
    llm: WheelAsset | HubAsset
    modalities: dict[str, ModalitySpec] = field(default_factory=dict)
    bits: Bits | None = None  # 32: fp32, 16: bf16, 8: int8, 4: nf4; None: bf16 where it is fast
    step: StepSpec = StepSpec()
    finetune: FinetuneSpec | None = None
    system: str = "You describe what you sense."  # the assistant's role (ours)
    max_bad_share: float = 0.2  # bad samples above this share stop a run (ours)
    eval_batch: int = 64  # prompts that are generated together
    encode_batch: int = 64  # items that are encoded together

    def modality(self, name: str) -> ModalitySpec:
        """The modality's part of the profile; `ConfigError` when the profile has none."""
        if name not in self.modalities:
            raise ConfigError(
                f"modality '{name}'",
                expected=f"one of {sorted(self.modalities)} in profile '{self.name}'",
                got=f"'{name}'",
                do="Choose another profile or leave the item out of the prompt.",
            )
        return self.modalities[name]

    @property
    def finetuning(self) -> FinetuneSpec:
        """The recipe of fine-tuning; `ConfigError` when the profile has none."""
        if self.finetune is None:
            raise ConfigError(
                f"profile '{self.name}'",
                expected="a recipe for fine-tuning",
                got="finetune=None",
                do="Choose a profile with one, or set its finetune to a FinetuneSpec.",
            )
        return self.finetune

    def with_modality(self, name: str, spec: ModalitySpec) -> Profile:
        """A copy whose modality `name` is `spec`."""
        return replace(self, modalities={**self.modalities, name: spec})


# What a saved profile may hold. Encoder specs join when their modality is registered.
SAVED_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        AdapterSpec,
        FinetuneSpec,
        HubAsset,
        LoraSpec,
        ModalitySpec,
        Profile,
        StepSpec,
        TrainSpec,
        WheelAsset,
    )
}


def to_plain(value: Any) -> Any:
    """A profile or spec as JSON-ready values; dataclasses carry their name under "type"."""
    if is_dataclass(value):
        named = {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **named}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`; `ConfigError` for an unknown type or field."""
    if isinstance(value, list):
        return tuple(from_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    items = {key: from_plain(item) for key, item in value.items() if key != "type"}
    if "type" not in value:
        return items
    try:
        return SAVED_TYPES[value["type"]](**items)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"saved profile, {value['type']}",
            expected="a profile that this version of anymal_lib wrote",
            got=str(error),
            do="Load it with the version that wrote it, or train again.",
        ) from error
