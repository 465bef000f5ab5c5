"""The grounding report: does a model read each of its modalities, or is it blind?"""
