"""Train a captioner of easy-VQA's pictures in a minute or two: its facts are right, its data few.

python tests/browser/train_captioner.py OUTPUT_DIR
"""

import sys
from dataclasses import replace

from anymal_lib import stages
from anymal_lib.runs import start

TRAINED, TESTED = 1000, 8  # rows
STEPS = 150  # the profile's own


def main(output):
    # The head that reads whole pictures is nothing to the captions: two steps are enough.
    given = {"PROFILE": "mini", "OUTPUT_DIR": output, "STEPS": STEPS, "ENCODER_STEPS": 2}
    run = start("02_align_image", given)
    whole = stages.open_manifest(run, "image")
    rows = stages.spread(whole.split("train"), TRAINED) + stages.spread(whole.split("test"), TESTED)
    manifest = replace(whole, rows=tuple(rows), checksum=f"{whole.checksum}/{TRAINED}")
    sensed = stages.sense(run, "image", manifest)
    stages.align(run, "image", stages.build_model(run, "image", sensed), sensed)


if __name__ == "__main__":
    main(sys.argv[1])
