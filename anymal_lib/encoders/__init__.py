"""Frozen encoders: one module a modality, whose `build` makes the encoder from its spec."""

from anymal_lib.encoders.base import Encoder, Features, LearnedEncoder

__all__ = ["Encoder", "Features", "LearnedEncoder"]
