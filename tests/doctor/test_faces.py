"""Faces are found, made unrecognisable for good, and nothing else is touched."""

import numpy as np
import PIL.Image
import pytest

from anymal_lib import Image
from anymal_lib.doctor import figures
from anymal_lib.doctor.examples import example_portraits
from anymal_lib.doctor.faces import blur_faces, find_faces
from anymal_lib.errors import InputError


@pytest.fixture(scope="module")
def portraits():
    return example_portraits()


def outside(faces, shape):
    """Mask (h, w) of the pixels farther from every face than a third of its size."""
    mask = np.ones(shape[:2], bool)
    for face in faces:
        wide, high = face.right - face.left, face.bottom - face.top
        rows = slice(max(0, face.top - high // 3), face.bottom + high // 3 + 1)
        columns = slice(max(0, face.left - wide // 3), face.right + wide // 3 + 1)
        mask[rows, columns] = False
    return mask


@pytest.mark.parametrize(("name", "count"), [("one face", 1), ("four faces", 4)])
def test_faces_are_found_and_gone_after_the_blur(portraits, name, count):
    before = np.asarray(portraits[name])
    blurred, faces = blur_faces(portraits[name])
    after = np.asarray(blurred)
    assert len(faces) == count
    assert find_faces(blurred) == []
    assert blur_faces(blurred)[1] == []
    mask = outside(faces, before.shape)
    assert mask.any()
    assert np.array_equal(after[mask], before[mask])
    for face in faces:
        inside = np.s_[face.top : face.bottom, face.left : face.right]
        colours = np.unique(after[inside].reshape(-1, 3), axis=0)
        assert len(colours) <= 100  # a few flat cells: nothing to sharpen again
        assert np.abs(after[inside].astype(int) - before[inside]).mean() > 5


def test_where_the_faces_are(portraits):
    (face,) = find_faces(portraits["one face"])
    left, top, right, bottom = 175, 140, 355, 335  # Grace Hopper's face, by eye
    overlap = max(0, min(face.right, right) - max(face.left, left))
    overlap *= max(0, min(face.bottom, bottom) - max(face.top, top))
    areas = (face.right - face.left) * (face.bottom - face.top) + (right - left) * (bottom - top)
    assert overlap / (areas - overlap) > 0.8
    assert face.score > 0.7


def test_a_picture_without_a_face_is_not_changed(portraits):
    blurred, faces = blur_faces(portraits["no face"])
    assert faces == []
    assert blurred.tobytes() == portraits["no face"].tobytes()


@pytest.mark.parametrize("scale", [0.15, 0.5, 3])
def test_the_size_of_the_picture_does_not_matter(portraits, scale):
    hopper = portraits["one face"]
    sized = hopper.resize((round(hopper.width * scale), round(hopper.height * scale)))
    (face,) = find_faces(sized)
    (usual,) = find_faces(hopper)
    assert abs(face.left - scale * usual.left) < 12 * max(1, scale)
    assert abs(face.bottom - scale * usual.bottom) < 12 * max(1, scale)
    assert find_faces(blur_faces(sized)[0]) == []


def test_results_do_not_depend_on_what_was_seen_before(portraits):
    first = find_faces(portraits["one face"])
    for other in (portraits["four faces"], PIL.Image.new("RGB", (33, 700)), portraits["no face"]):
        find_faces(other)
    assert find_faces(portraits["one face"]) == first


def test_faces_at_the_edge_stay_inside_the_picture(portraits):
    hopper = portraits["one face"]
    cut = hopper.crop((230, 190, 512, 600))  # half of the face is outside
    blurred, faces = blur_faces(cut)
    assert blurred.size == cut.size
    for face in faces:
        assert 0 <= face.left < face.right <= cut.width
        assert 0 <= face.top < face.bottom <= cut.height


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2), (64, 64)])
def test_empty_pictures_of_any_size(size):
    picture = PIL.Image.new("RGB", size, (90, 120, 60))
    blurred, faces = blur_faces(picture)
    assert faces == []
    assert blurred.tobytes() == picture.tobytes()


def test_paths_and_arrays_are_pictures_too(portraits, tmp_path):
    path = tmp_path / "hopper.png"
    portraits["one face"].save(path)
    expected = find_faces(portraits["one face"])
    assert find_faces(path) == expected
    assert find_faces(np.asarray(portraits["one face"])) == expected
    blurred, _ = blur_faces(path)
    assert blurred.size == Image(path).load().size
    with pytest.raises(InputError, match="nothing"):
        blur_faces(tmp_path / "nothing.png")


def test_the_figure_draws_every_box(portraits):
    shown = {name: (picture, *blur_faces(picture)) for name, picture in portraits.items()}
    figure = figures.faces(shown)
    assert [len(axis.patches) for axis in figure.axes[:3]] == [1, 4, 0]
    assert "unchanged" in figure.axes[5].get_title()
