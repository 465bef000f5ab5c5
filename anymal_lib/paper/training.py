"""How the paper trained, as far as it says, and what this kit had to choose.

Names with a dot are places in a profile: `align.batch` is `Profile.modality(run).align.batch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from anymal_lib.paper.results import TEXT
from anymal_lib.specs import ModalitySpec, Profile, TrainSpec

Mark = Literal["stated", "derived", "ours"]
TABLE_12 = "Table 12"  # in appendix B.3
IMU2CLIP = "arXiv 2210.14395"


@dataclass(frozen=True)
class Lora:
    """LoRA of the paper's fine-tuning."""

    rank: int
    alpha: int
    layers: str


@dataclass(frozen=True)
class Training:
    """A row of Table 12."""

    run: str
    sizes: tuple[str, ...]  # of the LLM; empty where the table does not say
    batch: int
    learning_rate: float
    steps: int
    tokens: int | None = None  # modality tokens
    kind: str | None = None  # of the projection
    layers: int | None = None  # of the projection
    lora: Lora | None = None
    source: str = TABLE_12

    @property
    def samples(self) -> int:
        """Samples that the run sees, repeated ones counted again (derived)."""
        return self.batch * self.steps


_BOTH = ("13B", "70B")
TRAINING = (
    Training("image", _BOTH, 2048, 2e-4, 100_000, 64, "resampler", 6),
    Training("audio", _BOTH, 128, 1e-4, 1_000, 32, "linear", 1),
    Training("video", _BOTH, 1024, 1e-4, 20_000, 32, "resampler", 4),
    Training("imu", ("7B",), 256, 1e-4, 2_000, 32, "linear", 1),
    Training("MM-IT", (), 128, 1e-5, 3_000, lora=Lora(64, 16, "all linear")),
)


@dataclass(frozen=True)
class Data:
    """Data of a run, with the paper's count."""

    run: str
    name: str
    samples: int
    use: Literal["train", "test"] = "train"
    source: str = TEXT


DATA = (
    Data("image", "LAION-2B, CAT-filtered, faces blurred", 200_000_000),  # "about"
    Data("audio", "AudioSet", 2_100_000),
    Data("audio", "AudioCaps", 46_000),
    Data("audio", "Clotho", 5_000),
    Data("imu", "Ego4D narrations", 528_000),
    Data("video", "HowTo100M with ASR text", 28_000_000),
    Data("MM-IT", "written by annotators", 60_000),
    Data("MM-IT", "synthesised by LLaMA-2 70B", 150_000),
    Data("MM-IT", "written by annotators", 1_000, use="test"),
)


def training_samples(run: str) -> int:
    """Training samples of a run's data, together."""
    return sum(d.samples for d in DATA if d.run == run and d.use == "train")


def epochs(training: Training) -> float:
    """How often a run sees its data: steps times batch over samples (derived)."""
    return training.samples / training_samples(training.run)


@dataclass(frozen=True)
class Ablation:
    """One change to the image alignment, and what it does to the training loss over time."""

    setting: str
    base: int | str
    changed: int | str
    loss: Literal["little changed", "lower"]
    source: str = "Figure 4"


ABLATIONS = (
    Ablation("batch", 2048, 16_384, "little changed"),
    Ablation("modality tokens", 64, 256, "little changed"),
    Ablation("resampler layers", 2, 6, "lower"),
    Ablation("LLM", "13B", "70B", "lower"),
)


@dataclass(frozen=True)
class Setting:
    """A setting and whose it is: stated by the paper, derived from what it states, or ours."""

    run: str
    name: str
    value: Any
    mark: Mark
    source: str


def _stated(run: str, source: str, values: dict[str, Any]) -> list[Setting]:
    return [Setting(run, name, value, "stated", source) for name, value in values.items()]


ENCODERS = (
    *_stated("image", TEXT, {"encoder.image_size": 336, "ViT-G, pixels a side": 224}),
    *_stated("video", TEXT, {"encoder.frames": 4, "frames of the video encoder": 8}),
    *_stated(
        "imu",
        IMU2CLIP,
        {
            "encoder.rate": 200.0,  # Hz
            "encoder.window": 5.0,  # seconds
            "encoder.width": 512,
            "encoder.align.learning_rate": 2e-4,
            "channels": 6,
            "kernels": (10, 5, 5),
            "channels of a convolution": 32,
            "max-pooling": 3,
            "weights, about": 850_000,
            "first temperature": 0.1,
            "optimizer": "Adam",
            "half a window in the authors' file, seconds": 2.5,
            "samples that the authors' file accepts": (978, 1004),
        },
    ),
)
QUANTIZATION = (
    *_stated(
        "quantized LLM",
        TEXT,
        {
            "bits": (4, 8),
            "LLM": "70B",
            "GPUs": 1,
            "GPU memory, GB": 80,
            "batch": 4,
            "throughput / FSDP": 1.0,
            "GPUs / FSDP": 0.5,
            "training and validation loss, against FSDP": "higher",
            "LLM at inference": "full precision",
        },
    ),
)
FINE_TUNING = tuple(
    _stated("MM-IT", TEXT, {"order of a prompt": "[<instruction> <modality_tokens>]"})
)
RUBRIC = (
    *_stated(
        "human evaluation",
        TEXT,
        {
            "points for object recognition": (0, 1, 2),
            "points for response accuracy": (0, 2),
            "points for integrity": (0, 2),
            "against the human reference": ("win", "tie", "lose"),
        },
    ),
)
# Weights of the 70B model and widths of LLaMA-2, by the sizes' names (arXiv 2307.09288).
WEIGHTS_70B = 70e9
LLM_WIDTHS = {"13B": 5120, "70B": 8192}
# nf4 in blocks of 64 with an 8-bit scale each; 256 scales share a 32-bit one (QLoRA,
# arXiv 2305.14314).
BITS = {"nf4": 4 + 8 / 64 + 32 / (64 * 256), "int8": 8.0, "bf16": 16.0}


def weights_gib(precision: str) -> float:
    """GiB that 70B weights take alone at nf4 (double quantization), int8 or bf16 (derived)."""
    return WEIGHTS_70B * BITS[precision] / 8 / 2**30


# What stands in the code rather than in a profile.
_IN_CODE = (
    ("optimizer", "AdamW, betas 0.9 and 0.999", "train.AdapterTrainer"),
    ("schedule", "linear warm-up, cosine to zero", "contrastive.warm_cosine"),
    ("precision of the adapter", "fp32", "adapters.build_adapter"),
    ("one vector to 32 tokens", "the linear layer's output, cut", "adapters.LinearProjection"),
    ("decoding", "greedy", "model.AnyMAL"),
)


def settings(profile: Profile) -> list[Setting]:
    """Everything stated and derived, then what the profile and the code chose themselves."""
    return [*stated(), *derived(), *ours(profile)]


def stated() -> list[Setting]:
    """What the paper says (of IMU2CLIP: what its authors say)."""
    rows = []
    for training in TRAINING:
        sizes = ", ".join(("", *training.sizes))
        rows += _stated(training.run, training.source + sizes, _in_profile(training))
        if training.lora:
            lora = {f"lora.{f.name}": getattr(training.lora, f.name) for f in fields(Lora)}
            rows += _stated(training.run, training.source, lora)
    return [*rows, *FINE_TUNING, *ENCODERS, *QUANTIZATION, *RUBRIC]


def derived() -> list[Setting]:
    """What follows from the stated figures."""
    rows = []
    for training in TRAINING:
        seen = {"samples seen": training.samples, "epochs": epochs(training)}
        rows += [
            Setting(training.run, name, value, "derived", f"{training.source} and data sizes")
            for name, value in seen.items()
        ]
    by_name = {s.name: s.value for s in ENCODERS if s.run == "imu"}
    samples = int(by_name["encoder.rate"] * by_name["encoder.window"])
    rows.append(Setting("imu", "samples of a window", samples, "derived", IMU2CLIP))
    for precision in BITS:
        name = f"70B weights at {precision}, GiB"
        source = "70B weights, bits of a weight"
        rows.append(Setting("quantized LLM", name, weights_gib(precision), "derived", source))
    return rows


def ours(profile: Profile) -> list[Setting]:
    """What the kit chose: every value of the profile that nobody states for such a run.

    Values of Table 12 count as stated for the LLM sizes that the table names; a profile that
    carries them over to another size has chosen them.
    """
    size = profile.name.removeprefix("paper-").upper()
    known = {(s.run, s.name): s.value for s in ENCODERS}
    for training in TRAINING:
        if size in training.sizes:
            known |= {(training.run, name): v for name, v in _in_profile(training).items()}
    rows = [
        Setting(run, name, value, "ours", f"profile {profile.name}")
        for run, spec in profile.modalities.items()
        for name, value in _choices(spec)
        if known.get((run, name)) != value
    ]
    for name in ("bits", "system", "max_bad_share"):
        value = getattr(profile, name)
        rows.append(Setting("every run", name, value, "ours", f"profile {profile.name}"))
    return [*rows, *(Setting("every run", name, v, "ours", code) for name, v, code in _IN_CODE)]


def _in_profile(training: Training) -> dict[str, Any]:
    """A row of Table 12 by the places that its values have in a profile."""
    values = {f"align.{name}": getattr(training, name) for name in _OF_TRAINING}
    values |= {f"adapter.{name}": getattr(training, name) for name in _OF_ADAPTER}
    return {name: value for name, value in values.items() if value is not None}


_OF_TRAINING = ("batch", "learning_rate", "steps")
_OF_ADAPTER = ("kind", "tokens", "layers")


def _choices(spec: ModalitySpec) -> Iterator[tuple[str, Any]]:
    """Place and value of everything in a modality's part of a profile that has an effect."""
    unused = ("adapter.width", "adapter.heads") if spec.adapter.kind == "linear" else ()
    for name, value in _leaves(spec, ""):
        if value is not None and name not in unused:
            yield name, value


def _leaves(part: Any, place: str) -> Iterator[tuple[str, Any]]:
    for f in fields(part):
        value = getattr(part, f.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{place}{f.name}.")
        # An encoder's defaults are its authors', not ours.
        elif not (_is_encoder(part, place) and value == f.default):
            yield place + f.name, value


def _is_encoder(part: Any, place: str) -> bool:
    return place.startswith("encoder.") and not isinstance(part, TrainSpec)
