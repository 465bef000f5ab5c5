"""The data doctor: what is in a set of pairs, and what should not be.

Each check works on rows of manifests and changes nothing on disk: the CAT filter (`cat`), faces
(`faces`), near-duplicates and leaks (`duplicates`), and what captions are made of (`captions`).
"""
