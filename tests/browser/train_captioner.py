"""Train a captioner of some of easy-VQA's pictures in a minute: few kinds of things, each right.

python tests/browser/train_captioner.py OUTPUT_DIR
"""

import sys
from dataclasses import replace

from anymal_lib import stages
from anymal_lib.runs import start

COLOURS = ("red", "blue")
ROWS = {"train": 480, "test": 24}
STEPS = 80


def main(output):
    # The head that reads whole pictures is nothing to the captions: two steps are enough.
    given = {"PROFILE": "mini", "OUTPUT_DIR": output, "STEPS": STEPS, "ENCODER_STEPS": 2}
    run = start("02_align_image", given)
    whole = stages.open_manifest(run, "image")
    rows = [row for split, count in ROWS.items() for row in known(whole.split(split))[:count]]
    manifest = replace(whole, rows=tuple(rows), checksum=f"{whole.checksum}/{len(rows)}")
    sensed = stages.sense(run, "image", manifest)
    model = stages.build_model(run, "image", sensed)
    stages.align(run, "image", model, sensed)
    report = stages.evaluate(run, "image", model, sensed, controls=("clean",))
    print("right captions of held-out pictures:", report.exact_match.value)


def known(rows):
    """The rows of things that the captioner knows."""
    return [row for row in rows if row.facts["colour"] in COLOURS]


if __name__ == "__main__":
    main(sys.argv[1])
