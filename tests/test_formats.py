"""Each source's reader on a few hand-made records in the source's own format."""

import json

import pytest

from anymal_lib.errors import ManifestError
from anymal_lib.manifest import load_manifest
from anymal_lib.sources.convert import convert

HEADS = {  # what a file of the kind begins with
    ".jpg": b"\xff\xd8\xff\xe0 picture", ".png": b"\x89PNG picture", ".wav": b"RIFF sound",
    ".flac": b"fLaC sound", ".ogg": b"OggS sound", ".mp4": b"\0\0\0\x18ftypmp42 film",
    ".webm": b"\x1aE\xdf\xa3 film",
}  # fmt: skip


@pytest.fixture
def converted(tmp_path):
    """Function: a source's files -> (report, rows by id, reasons by lost id)."""

    def run(name, files, media):
        source, target = tmp_path / "source", tmp_path / "target"
        for path, content in files.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            (source / path).write_text(text, encoding="utf-8")
        for path in media:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(HEADS[path[path.rindex(".") :]] + path.encode())
        report = convert(name, source, target)
        manifest = load_manifest(target / "card.yaml")
        lines = (target / "lost.jsonl").read_text().splitlines()
        lost = {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}
        assert report.ok == len(manifest.rows)
        assert report.records == len(manifest.rows) + len(lines)
        assert all(row.path.is_file() and source in row.path.parents for row in manifest.rows)
        return report, {row.id: row for row in manifest.rows}, lost

    return run


def test_audioset(converted):
    head = "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=3\n# YTID, start_seconds\n"
    train = '-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"\n'
    train += '--PJHxphWEs, 30.000, 40.000, "/m/09x0r"\n'
    report, rows, lost = converted(
        "audioset",
        {
            "balanced_train_segments.csv": head + train,
            "eval_segments.csv": head + 'ZZZZZZZZZZZ, 0.000, 10.000, "/m/09x0r"\n'
            'gone_video1, 1.000, 11.000, "/m/09x0r"\n',
            "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n'
            '1,/m/03v3yw,"Keys jangling"\n2,/m/0k4j,"Car"\n',
            "fetch.log": "[youtube] Extracting URL\n"
            "ERROR: [youtube] gone_video1: Video unavailable. This video is private\n",
        },
        ["clips/-0RWZT-miFs.wav", "clips/--PJHxphWEs_30000_40000.flac"],
    )
    assert rows["-0RWZT-miFs-420"].text == ("Keys jangling, Car",)
    assert rows["--PJHxphWEs-30"].path.suffix == ".flac"
    assert {row.split for row in rows.values()} == {"train"}
    assert lost == {
        "ZZZZZZZZZZZ-0": "missing file", "gone_video1-1": "dead link: Video unavailable",
    }  # fmt: skip
    assert report.paper == 2_100_000


def test_audiocaps_groups_the_captions_of_a_clip(converted):
    head = "audiocap_id,youtube_id,start_time,caption\n"
    _, rows, lost = converted(
        "audiocaps",
        {
            "train.csv": head + '91139,r1nicOVtvkQ,130,"A woman talks nearby, as water pours"\n',
            "test.csv": head + "103548,abc-_123456,30,Rain falls\n103549,abc-_123456,30,It rains\n"
            "7,dead1234567,0,Gone\n",
            "yt.log": "ERROR: [youtube] dead1234567: HTTP Error 403: Forbidden\n",
        },
        ["train/91139.wav", "audio/abc-_123456_30.flac"],
    )
    assert rows["r1nicOVtvkQ-130"].text == ("A woman talks nearby, as water pours",)
    assert rows["abc-_123456-30"].text == ("Rain falls", "It rains")
    assert rows["abc-_123456-30"].split == "test"
    assert lost == {"dead1234567-0": "dead link: HTTP 403"}


def test_clotho_has_a_licence_for_each_sound(converted):
    captions = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    metadata = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
    _, rows, lost = converted(
        "clotho",
        {
            "clotho_captions_development.csv": captions + "Caf 1.5.wav,one,two,three,four,five\n",
            "clotho_metadata_development.csv": metadata
            + "Caf 1.5.wav,a;b,1,https://x,[0 1],me,http://creativecommons.org/licenses/by/3.0/\n",
            "clotho_captions_evaluation.csv": captions + "Caf 1.5.wav,a,b,c,d,e\n",
            "clotho_metadata_evaluation.csv": metadata,
        },
        ["development/Caf 1.5.wav"],
    )
    (row,) = rows.values()
    assert row.text == ("one", "two", "three", "four", "five")
    assert (row.split, row.licence) == ("train", "http://creativecommons.org/licenses/by/3.0/")
    assert lost == {"evaluation/Caf 1.5.wav": "missing file"}, "the same name in another part"


@pytest.mark.parametrize("name", ["raw_caption.json", "caption.json"])
def test_howto100m(converted, name):
    spoken = {
        "nVbIUDjzWY4": {"start": [9.6, 12.0, 15.0], "end": [12.0, 15.0, 15.0],
                        "text": ["so today we bake", " ", "bread"]},
        "nothere0000": {"start": [0.0], "end": [2.0], "text": ["hello"]},
    }  # fmt: skip
    _, rows, lost = converted("howto100m", {name: spoken}, ["videos/nVbIUDjzWY4.webm"])
    (row,) = rows.values()
    assert (row.start, row.end, row.text) == (9.6, 12.0, ("so today we bake",))
    assert row.group == "nVbIUDjzWY4"
    assert sorted(lost.values()) == [
        "missing file", "no words", "too short: it ends where it starts",
    ]  # fmt: skip


def test_karpathy(converted):
    def image(number, split, folder="val2014"):
        sentences = [{"tokens": ["a"], "raw": "A cat.", "imgid": 0, "sentid": 1}, {"raw": "Cat "}]
        name = f"COCO_{folder}_{number:012d}.jpg"
        return {"filepath": folder, "filename": name, "cocoid": number, "split": split,
                "sentids": [1], "imgid": 0, "sentences": sentences}  # fmt: skip

    images = [image(391895, "test"), image(522418, "restval"), image(9, "val"), image(8, "train")]
    _, rows, lost = converted(
        "coco-karpathy",
        {"dataset_coco.json": {"images": images, "dataset": "coco"}},
        ["val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000522418.jpg",
         "train2017/000000000008.jpg"],
    )  # fmt: skip
    assert {key: row.split for key, row in rows.items()} == {
        "391895": "test", "522418": "train", "8": "train",
    }  # fmt: skip
    assert rows["391895"].text == ("A cat.", "Cat")
    assert lost == {"9": "missing file"}


@pytest.mark.parametrize(
    ("name", "prefix"), [("vqav2", "v2_OpenEnded_mscoco"), ("okvqa", "OpenEnded_mscoco")]
)
def test_vqa_json(converted, name, prefix):
    def questions(part, *ids):
        asked = [{"image_id": i, "question": "What?", "question_id": i * 1000} for i in ids]
        return {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco",
                "data_subtype": part, "questions": asked}  # fmt: skip

    answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}, {"answer": "no"}]
    _, rows, lost = converted(
        name,
        {
            f"{prefix}_val2014_questions.json": questions("val2014", 262148, 5),
            f"{prefix}_test-dev2015_questions.json": questions("test-dev2015", 7),
            "v2_mscoco_val2014_annotations.json": {
                "annotations": [
                    {"question_id": i * 1000, "image_id": i, "answers": answers}
                    for i in (262148, 5)
                ]
            },
        },
        ["val2014/COCO_val2014_000000262148.jpg", "test2015/COCO_test2015_000000000007.jpg"],
    )
    row = rows["262148000"]
    assert (row.split, row.question, row.answers, row.text) == ("val", "What?", ("yes", "no"), ())
    assert lost == {"5000": "missing file", "7000": "no published answer"}


def test_textvqa(converted):
    def entry(number, split, **more):
        return {"question": "what brand?", "image_id": f"{number:016x}", "image_classes": ["Cup"],
                "flickr_original_url": "https://x", "image_width": 1024, "image_height": 664,
                "question_tokens": ["what"], "question_id": number, "set_name": split,
                **more}  # fmt: skip

    files = {
        "TextVQA_0.5.1_train.json": {"dataset_type": "train", "dataset_name": "textvqa",
                                     "data": [entry(34602, "train", answers=["nous"] * 10)]},
        "TextVQA_0.5.1_test.json": {"data": [entry(39602, "test")]},
    }  # fmt: skip
    media = [f"train_images/{34602:016x}.jpg", f"test_images/{39602:016x}.jpg"]
    _, rows, lost = converted("textvqa", files, media)
    assert rows["34602"].answers == ("nous",) * 10
    assert lost == {"39602": "no published answer"}


def test_vizwiz(converted):
    def entry(name, *answers):
        fields = {"image": name, "question": "What is this?"}
        if answers:
            given = [{"answer_confidence": "yes", "answer": a} for a in answers]
            fields |= {"answers": given, "answer_type": "other", "answerable": 1}
        return fields

    _, rows, lost = converted(
        "vizwiz",
        {
            "Annotations/train.json": [entry("VizWiz_train_00000000.jpg", "basil", "unanswerable")],
            "Annotations/test.json": [entry("VizWiz_test_00000000.jpg")],
        },
        ["train/VizWiz_train_00000000.jpg", "test/VizWiz_test_00000000.jpg"],
    )
    assert rows["VizWiz_train_00000000.jpg"].answers == ("basil", "unanswerable")
    assert lost == {"VizWiz_test_00000000.jpg": "no published answer"}


def test_science_qa(converted):
    def problem(image, split="test", hint=""):
        return {"question": "Which is farthest north?", "choices": ["Ohio", "Texas"], "answer": 0,
                "hint": hint, "image": image, "task": "closed choice", "grade": "grade2",
                "subject": "social science", "split": split}  # fmt: skip

    _, rows, lost = converted(
        "scienceqa",
        {"problems.json": {"1": problem("image.png"), "2": problem(None),
                           "4": problem("image.png", "train", "Look at the map."),
                           "6": problem("image.png")}},
        ["test/1/image.png", "images/train/4/image.png"],
    )  # fmt: skip
    assert (rows["1"].options, rows["1"].answers) == (("Ohio", "Texas"), ("Ohio",))
    assert rows["4"].question == "Which is farthest north?\nLook at the map."
    assert rows["4"].path.parent.name == "4"
    assert lost == {"2": "no picture: a question in words only", "6": "missing file"}


def test_hateful_memes(converted):
    def lines(*memes):
        return "".join(json.dumps(meme) + "\n" for meme in memes)

    meme = {"id": 8291, "img": "img/08291.png", "label": 1, "text": "white people is this"}
    unlabelled = {k: v for k, v in meme.items() if k != "label"}
    _, rows, lost = converted(
        "hateful-memes",
        {"train.jsonl": lines(meme | {"id": 42953, "img": "img/42953.png", "label": 0}),
         "dev_seen.jsonl": lines(meme), "dev_unseen.jsonl": lines(meme),
         "test_seen.jsonl": lines(unlabelled)},
        ["img/08291.png", "img/42953.png"],
    )  # fmt: skip
    assert rows["train-42953"].answers == ("no",)
    row = rows["dev_unseen-8291"]
    assert (row.split, row.options, row.answers) == ("val", ("no", "yes"), ("yes",))
    assert "white people is this" in row.question and row.text == ()
    assert lost == {"test_seen-8291": "no published answer"}


def test_star(converted):
    def entry(number, video, **more):
        words = ["The closet.", "The blanket.", "The clothes.", "The table."]
        choices = [{"choice_id": k, "choice": word, "choice_program": []}
                   for k, word in enumerate(words)]  # fmt: skip
        return {"question_id": f"Interaction_T1_{number}", "question": "Which object?",
                "video_id": video, "start": 11.1, "end": 19.6, "question_program": [],
                "choices": choices, "situations": {}, **more}  # fmt: skip

    _, rows, lost = converted(
        "star",
        {"STAR_val.json": [entry(13, "6H78U", answer="The clothes."),
                           entry(14, "GONE0", answer="The table.")],
         "STAR_test.json": [entry(1, "6H78U")]},
        ["Charades_v1_480/6H78U.mp4"],
    )  # fmt: skip
    (row,) = rows.values()
    assert (row.start, row.end, row.answers) == (11.1, 19.6, ("The clothes.",))
    assert row.options[0] == "The closet." and len(row.options) == 4
    assert sorted(lost.values()) == ["missing file", "no published answer"]


def test_how2qa_does_not_give_the_answer_away_by_its_place(converted):
    line = '{},"[{}:{}]",A pan.,A pot.,"A bowl, red.",What is on the stove?,A kettle.\n'
    times = [(k, k + 5) for k in range(40)]
    _, rows, lost = converted(
        "how2qa",
        {"how2QA_val_release.csv": "".join(line.format("1O_wWnKYj7Q", a, b) for a, b in times),
         "how2QA_train_release.csv": line.format("gone0000000", 1, 2)
         + line.format("1O_wWnKYj7Q", 9, 9)},
        ["1O_wWnKYj7Q.mp4"],
    )  # fmt: skip
    assert len(rows) == 40
    for row in rows.values():
        assert row.answers == ("A kettle.",) and set(row.options) == {
            "A pan.", "A pot.", "A bowl, red.", "A kettle.",
        }  # fmt: skip
    assert {row.options.index("A kettle.") for row in rows.values()} == {0, 1, 2, 3}
    assert (rows["val-3"].start, rows["val-3"].end) == (3.0, 8.0)
    assert lost == {"train-0": "missing file", "train-1": "too short: it ends where it starts"}


def test_nextqa(converted):
    head = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    _, rows, lost = converted(
        "nextqa",
        {"val.csv": head + "4010069381,369,640,480,how do they play,2,6,CH,roll,tap,strum,hit,pat\n"
         "1,9,640,480,why,0,1,CW,a,b,c,d,e\n"},
        ["videos/1150/4010069381.mp4"],
    )  # fmt: skip
    row = rows["val-4010069381-6"]
    assert (row.answers, row.options) == (("strum",), ("roll", "tap", "strum", "hit", "pat"))
    assert lost == {"val-1-1": "missing file"}


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("nextqa", "val.csv", "video,question\n1,why\n"),
        ("star", "STAR_val.json", [{"question": "x"}]),
        ("vqav2", "x_questions.json", {"questions": []}),
        ("howto100m", "caption.json", {"v": {"start": [1], "end": [], "text": ["a"]}}),
        ("hateful-memes", "train.jsonl", "not json\n"),
        ("coco-karpathy", "dataset_coco.json", "[1]"),
        ("howto100m", "caption.json", "[1]"),
        ("scienceqa", "problems.json", "{"),
    ],
)
def test_another_format_is_refused_by_name(converted, name, file, content):
    with pytest.raises(ManifestError, match=f"{name}|{file}"):
        converted(name, {file: content}, [])
