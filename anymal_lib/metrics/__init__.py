"""Scores of texts and answers, every one a fraction of 0-1 but CIDEr-D, which goes up to 10.

Papers print all of them times 100: a CIDEr-D of 1.0 here is their 100, an accuracy of 0.5 their
50. `facts` has what captions state, `captions` the scores of captioning, `answers` those of
questions, `intervals` how sure a mean is, and `named` all of them by name for `anymal_lib.tasks`.
"""
