"""Multimodal instruction tuning (the paper's MM-IT): questions, filter, fine-tuning, answers."""
