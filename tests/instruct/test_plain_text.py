"""The held-out text: whole paragraphs of plain English, which nothing else here contains."""

import re

from anymal_lib.instruct.plain_text import TEXT_FILE, plain_text


def test_paragraphs_are_whole_and_as_the_readme_says():
    paragraphs = plain_text()
    words = [len(paragraph.split()) for paragraph in paragraphs]
    readme = (TEXT_FILE.parent / "README.md").read_text()
    stated = [int(number) for number in re.findall(r"(?<![\w.-])\d{2,}", readme)]
    assert stated == [sum(words), len(paragraphs)]
    assert 12 <= len(paragraphs) <= 15 and min(words) > 100 and max(words) < 150
    for paragraph in paragraphs:
        assert paragraph == paragraph.strip() and "\n" not in paragraph and "  " not in paragraph
        assert paragraph.isascii() and paragraph[-1] in '."'
    assert len(set(paragraphs)) == len(paragraphs)


def test_it_is_text_that_the_language_model_reads_without_loss(tiny_llm):
    tokenizer = tiny_llm().tokenizer
    for paragraph in plain_text():
        ids = tokenizer(paragraph, add_special_tokens=False).input_ids
        assert len(ids) < 300
        assert tokenizer.decode(ids) == paragraph
