"""The figures of the README and of docs/results.md are the stored run's, and its code is real."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from anymal_lib import AnyMAL, load_profile
from anymal_lib.tables import NOTEBOOKS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
REFERENCE = ROOT / "outputs" / "reference"


def record(name: str) -> dict:
    return json.loads((REFERENCE / name / "metrics.json").read_text())


def results() -> str:
    """The README's table of results, from the stored metrics."""
    image, imu, audio, video = (record(f"mini/{name}") for name in ALIGNED)
    rows = []
    for what, found in (
        (f"**image**: colour and shape both right, {image['n']:,} official test images", image),
        (f"**motion**: exercise and arm both right, {imu['n']} windows of two unseen people", imu),
        (
            "**sound**: instrument, notes, direction, tempo and register all right,"
            f" {audio['n']} phrases of unheard (instrument, pattern) pairs",
            audio,
        ),
        (f"**video**: colour, shape and direction all right, {video['n']} unseen clips", video),
    ):
        scores = found["metrics"]["grounding"].values()
        cells = (f"{s['value']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in scores)
        rows.append(f"| {what} | {' | '.join(cells)} |")
    tuned, longer = (record(f"{folder}/06_finetune_mmit") for folder in ("mini", "longer"))

    def answered(run: dict) -> str:
        asked = run["metrics"]["questions"]
        return (
            f"{run['metrics']['vqa_accuracy']:.3f} of easy-VQA's {run['n']:,} official test"
            f" questions are answered exactly,\n{asked['imu']:.3f} of those about motions,"
            f" {asked['audio']:.3f} about sounds and {asked['video']:.3f} about clips"
        )

    return "\n".join(
        [
            "| mini profile, two CPU cores, greedy captions | the item | blank | another item "
            "| removed |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Brackets are 95 % bootstrap intervals. After fine-tuning with LoRA,"
            f" {tuned['seconds'] / 60:.0f} minutes,",
            f"{answered(tuned)}.",
            f"With {steps_of('longer'):,} steps instead of {steps_of('mini'):,}, and as many for"
            f" the adapters alone before, {longer['seconds'] / 60:.0f} minutes,",
            f"{answered(longer)}.",
        ]
    )


def captions() -> str:
    """What is told apart in the captions, from the stored metrics."""
    imu, audio = (record(f"mini/{name}")["metrics"] for name in ALIGNED[1:3])
    folds = record("folds/03_align_imu")["metrics"]["cross_validation"]
    facts = imu["attributes"]
    heard, other = audio["attributes"], audio["other_bank"]["attributes"]
    each = ", ".join(f"{name} {heard[name]:.3f} ({other[name]:.3f})" for name in HEARD)
    steps = load_profile("mini").modality("imu").align.steps
    table = {row["precision"]: row for row in imu["precisions"]}
    quantized = ", ".join(
        f"{name} {table[name]['exact_match']:.3f} ({table[name]['swapped']:.3f})"
        for name in ("int8", "nf4")
    )
    return "\n".join(
        [
            f"Motion: exercise {facts['exercise']:.3f}, arm {facts['arm']:.3f}; over all five"
            " folds of two unseen people, in an earlier run of 60 steps,",
            f"exercise {folds['mean']['exercise']:.3f}, arm {folds['mean']['arm']:.3f} (published"
            " for these ten people: 0.873, the best of four",
            "classifiers, arXiv 1802.01489 v1). With the adapter trained on a quantized LLM, same"
            " seed, and in brackets with the",
            f"bf16 LLM swapped in at inference as in the paper: {quantized}. At 135M parameters and"
            f" {steps} steps the swap is not free.",
            "",
            f"Sound, and in brackets the same phrases on another sound bank: {each}.",
        ]
    )


def notebooks() -> str:
    """The README's table of notebooks; time and memory where a run is stored."""
    rows = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        minutes = memory = "not stored"
        if (REFERENCE / "mini" / path.stem).is_dir():
            found = record(f"mini/{path.stem}")
            minutes = f"{found['seconds'] / 60:.0f} min" if found["seconds"] > 60 else "seconds"
            memory = f"{found['peak_memory_gb']:.1f} GB"
        link = f"[{path.stem}](notebooks/{path.name})"
        rows.append(f"| {link} | {DOES[path.stem]} | {minutes} | {memory} |")
    clock = [row[2].split(":") for row in report_rows() if "01" <= row[0] < "06"]
    last = max(int(passed) + int(seconds) / 60 for passed, seconds in clock)
    return "\n".join(
        [
            "| notebook | does | time in `make run` | memory |",
            "|---|---|---|---|",
            *rows,
            "",
            f"From an empty cache 01 to 05 were done after {last:.1f} minutes: they ran two at a"
            " time, on a core each. One that runs alone takes less.",
        ]
    )


def report_rows() -> list[list[str]]:
    """The rows of the stored run's report."""
    rows = (REFERENCE / "mini" / "report.md").read_text().splitlines()[4:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


def instructions() -> str:
    """The table of fine-tuned answers, by default and after a longer run."""
    runs = [record(f"{folder}/06_finetune_mmit") for folder in ("mini", "longer")]
    columns = [fine_tuned(run) for run in runs]
    compared = runs[0]["metrics"]["after_comparisons"]
    by_kind = runs[1]["metrics"]["questions_by_stage"]["projection"]
    few, many = (
        load_profile("mini").finetuning.projection.steps,
        runs[1]["parameters"]["PROJECTION_STEPS"],
    )
    default, longer = (f"{steps_of(folder):,} steps" for folder in ("mini", "longer"))
    unseen = (
        f"{ABOUT[name]} "
        + ", ".join(f"{_short(kind)} {score:.3f}" for kind, score in kinds.items())
        for name, kinds in compared.items()
    )
    return "\n".join(
        [
            f"| mini profile, greedy, exact answers | {default}, the default | {longer} |",
            "|---|---|---|",
            *(f"| {row} | {' | '.join(found[row] for found in columns)} |" for row in columns[0]),
            "",
            f"Without LoRA, on a sample of the questions: after {few} steps of the adapters alone,"
            f" pictures {runs[0]['metrics']['by_stage']['projection']:.3f};",
            f"after {many}, "
            + ", ".join(f"{ABOUT.get(what, what)} {share:.3f}" for what, share in by_kind.items())
            + ".",
            "Yes/no questions, once words were compared and before any item was asked about:"
            f" {'; '.join(unseen)}.",
        ]
    )


def _short(kind: str) -> str:
    """What a kind of yes/no question is about."""
    return kind.removesuffix("yes/no").strip() or "plain"


def steps_of(folder: str) -> int:
    """How many steps with LoRA a stored run of notebook 06 took."""
    return len((REFERENCE / folder / "06_finetune_mmit/curve.jsonl").read_text().splitlines())


ABOUT = {"image": "pictures", "imu": "motions", "audio": "sounds", "video": "clips"}


def fine_tuned(found: dict) -> dict[str, str]:
    """What a run of notebook 06 reached, row by row."""
    metrics = found["metrics"]
    controls = [metrics["grounding"][name]["value"] for name in ("blank", "shuffled", "removed")]
    pairs = metrics["interleaved"]
    shares = {
        f"easy-VQA, all {found['n']:,} official test questions": [metrics["vqa_accuracy"]],
        **{f"... {kind}": [score] for kind, score in metrics["vqa_kinds"].items()},
        "... with a blank picture, another one, none": controls,
        "... by the best answer that needs no picture": [metrics["blind"]],
        **{f"questions about {ABOUT[m]}": [score] for m, score in metrics["questions"].items()},
        "pairs that agree or conflict": [pairs["agreement_accuracy"]],
        **{f"... {kind}": [score] for kind, score in pairs["kinds"].items()},
        **{
            f"captions of {what}, before and after": [
                metrics["captions"][when][name] for when in ("before", "after")
            ]
            for name, what in ABOUT.items()
        },
        "dropped by the filter: questions that text alone answers": [
            metrics["filter"]["planted_text_answerable_dropped"]
        ],
        "dropped by the filter: held-out questions": [
            metrics["filter"]["planted_grounded_dropped"]
        ],
    }
    cost = metrics["text_perplexity"]
    return {
        **{row: ", ".join(f"{value:.3f}" for value in values) for row, values in shares.items()},
        "perplexity of plain text, before and after": f"{cost['before']:.1f}, {cost['after']:.1f}",
        "time, memory": f"{found['seconds'] / 60:.0f} min, {found['peak_memory_gb']:.1f} GB",
    }


def evaluation() -> str:
    """The lines on notebook 07, from the stored metrics."""
    found = record("mini/07_evaluate")
    metrics = found["metrics"]
    rows = [
        f"| {name} | {report['items']} | {report['score']['clean']['value']:.3f} | "
        + " | ".join(
            f"{report['score'][control]['value']:.3f}"
            for control in ("blank", "shuffled", "wrong_partner", "removed")
        )
        + f" | {'yes' if report['grounded'] else 'no'} |"
        for name, report in metrics["grounding_report"].items()
    ]
    names, paper = metrics["retrieval_augmented"], metrics["paper"]
    return "\n".join(
        [
            "| exact captions of the fine-tuned model | items | the item | blank | another item"
            " | unlike item | removed | reads it |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Invented names of {names['corpus']} things, asked of {names['n']} pictures:"
            f" {names['off']:.3f} right without retrieval, {names['on']:.3f} with it,",
            f"{names['wrong']:.3f} with a wrong text. Of {paper['claims_checked']} claims of the"
            f" paper, recomputed from its own tables, {paper['claims_that_fail']} do not hold.",
            f"{found['seconds'] / 60:.0f} minutes, {found['peak_memory_gb']:.1f} GB.",
        ]
    )


def ablations() -> str:
    """The changes of Figure 4, from the stored metrics of notebook 08: by default, and longer."""
    runs = [record(f"{folder}/08_ablations") for folder in ("mini", "longer")]
    default, longer = (run["metrics"] for run in runs)
    names = {"llm_layers": "LLM layers", "layers": "resampler layers", "tokens": "modality tokens"}

    def cells(change: dict) -> str:
        loss = change["held_out_loss"]
        shown = f"{loss['value']:+.2f} ({loss['low']:+.2f} to {loss['high']:+.2f})"
        return f"{shown} | {change['exact_match']['value']:+.2f}"

    rows = [
        f"| {names.get(c['factor'], c['factor'])} | {c['smaller']} to {c['larger']} | {c['same']}"
        f" | {cells(c)} | {cells(more)} |"
        for c, more in zip(default["changes"], longer["changes"], strict=True)
    ]
    steps = [run["metrics"]["runs"][0]["setting"]["steps"] for run in runs]
    shown = [sum(found is True for found in m["findings"].values()) for m in (default, longer)]
    minutes = [f"{run['seconds'] / 60:.0f}" for run in runs]
    return "\n".join(
        [
            f"| one change | from, to | at equal | {steps[0]} steps: held-out loss, nats | exact"
            f" captions | {steps[1]} steps: held-out loss | exact captions |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Mean of {default['seeds']} seeds, and 90 % intervals over them, runs paired by"
            " seed. Of the paper's",
            f"{len(default['findings'])} findings these seeds show {shown[0]} after {steps[0]}"
            f" steps ({minutes[0]} minutes, {runs[0]['peak_memory_gb']:.1f} GB) and {shown[1]}"
            f" after {steps[1]} ({minutes[1]} minutes, {runs[1]['peak_memory_gb']:.1f} GB).",
        ]
    )


def performance() -> str:
    """The table of steps, from the stored benchmark."""
    found = record("mini/11_performance")["metrics"]
    named = {
        "bare": "the LLM's forward pass and activation backward, nothing else",
        "ours": "**a whole training step of this kit**",
        "ours, compiled": "the same with compiled layers",
        "transformers": "`model(inputs_embeds, attention_mask, labels)`, bf16, exact length",
        "usual": "the same in fp32, padded to 128",
    }
    memory = {name: f"{value:.2f}" for name, value in found["memory_growth_over_bare"].items()}
    rows = [
        f"| {what} | {found['over_bare'][name]:.2f} | {memory.get(name, '')} |"
        for name, what in named.items()
    ]
    ratios = found["ratios"]
    return "\n".join(
        [
            "| one step: SmolLM2-135M, batch 16, 20 + 16 + 8 tokens, two CPU cores, bare step = 1"
            " | time | memory |",
            "|---|---|---|",
            *rows,
            "",
            f"What is not the LLM takes {ratios['not_llm_share']:.0%} of our step; its matrix"
            f" products run at {found['peak_fraction']:.0%} of this machine's peak;",
            f"nf4 costs {ratios['nf4_over_bf16']:.2f} times bf16; captions in a batch of 64 come"
            f" {ratios['batched_generation_speedup']:.1f} times as fast as one by one.",
            "",
            *on_gpu(),
        ]
    )


def on_gpu() -> list[str]:
    """What the benchmark's functions found on a GPU."""
    found = json.loads((REFERENCE / "gpu" / "11_performance.json").read_text())
    plain, compiled = (found["7B"][name][-1] for name in ("as they are", "compiled"))
    return [
        f"On an {found['device']}, before random weights of the 7B shape, at the largest batch"
        f" that fits ({plain['batch']}), the same step's",
        f"products run at {plain['peak fraction']:.0%} of the card's measured peak, with compiled"
        f" layers at {compiled['peak fraction']:.0%}.",
    ]


ALIGNED = ("02_align_image", "03_align_imu", "04_align_audio", "05_align_video")
DOES = {"00_start_here": "the system in one picture, and what is ready", **NOTEBOOKS}
HEARD = ("instrument", "notes", "direction", "tempo", "register")


@pytest.mark.parametrize(
    ("page", "part"),
    [
        (README, results),
        (README, notebooks),
        (RESULTS, captions),
        (RESULTS, instructions),
        (RESULTS, evaluation),
        (RESULTS, ablations),
        (RESULTS, performance),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_figures_are_those_of_the_stored_run(page, part):
    name = part.__name__
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)
    assert shown, f"the page lacks its {name}"
    assert shown.group(1) == part()


LINK = re.compile(r"\]\(([^)#:]+)\)")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = [(page, target) for page in PAGES for target in LINK.findall(page.read_text())]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: Path(value).name)
def test_links_lead_somewhere(page, target):
    assert (page.parent / target).exists()


def test_file_tree_is_the_library():
    tree = re.search(r"```\nanymal_lib/\n(.*?)```", EXTENDING, re.DOTALL)
    assert tree
    shown = {word for line in tree.group(1).splitlines() for word in line.split() if "." in word
             and word.endswith(".py")} | set(re.findall(r"(\w+)/  ", tree.group(1)))  # fmt: skip
    there = {
        path.name
        for path in (ROOT / "anymal_lib").iterdir()
        if path.name != "__init__.py" and not path.name.startswith("__pycache__")
    }
    assert shown == there


def test_python_examples_use_real_names():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        tree = ast.parse(block)
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        import anymal_lib

        assert all(hasattr(anymal_lib, name) for name in names)
    assert all(hasattr(AnyMAL, name) for name in ("from_profile", "save_pretrained", "push_to_hub"))
