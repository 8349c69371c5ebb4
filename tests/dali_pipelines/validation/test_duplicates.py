"""Copies are found within sets and across them, and only copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dali_pipelines.sources.samples import Samples
from dali_pipelines.storage import Cache, read_bytes
from dali_pipelines.validation.duplicates import copies, find_groups, near_pairs
from dali_pipelines.validation.image_facts import pixels_in_full
from dali_pipelines.validation.perceptual import fingerprints
from dali_pipelines.validation.scan import Look, location, scan


@pytest.fixture
def looked(cache):
    """Look at files of a folder: facts, and what gives the pixels of a row."""

    def run(folder):
        samples = Samples(folder, sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")))
        facts = scan(samples, Look(cache))
        return samples, facts, lambda row: pixels_in_full(read_bytes(location(samples, row), Cache.open()))

    return run


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("distance", [0, 3, 4, 7])
def test_near_pairs_are_those_that_comparing_everything_finds(distance):
    chance = np.random.default_rng(0)
    hashes = chance.integers(0, 2**64, 1500, dtype=np.uint64)
    for number in range(300):
        flipped = sum(1 << int(bit) for bit in chance.choice(64, number % 9, replace=False))
        hashes[600 + number] = hashes[number] ^ np.uint64(flipped)
    hashes = np.unique(hashes)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    assert near_pairs(hashes, distance).tolist() == np.argwhere(np.triu(apart <= distance, 1)).tolist()


def test_a_distance_that_the_index_cannot_find_is_refused():
    with pytest.raises(ValueError, match="allowed: 0 to 7"):
        near_pairs(np.zeros(1, np.uint64), 8)


def test_altered_copies_keep_their_hash_nearly_and_others_do_not(folder):
    originals = [Image.open(file).convert("RGB") for file in sorted(folder.glob("*/*.jpg"))]

    def hashes(images):
        grids = [np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)) for image in images]
        return fingerprints(np.stack(grids))[0]

    first = hashes(originals)
    for alter in (
        lambda image: Image.open(io.BytesIO(jpeg(image, quality=40))),
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    ):
        assert np.median(np.bitwise_count(hashes([alter(image) for image in originals]) ^ first)) <= 4
    apart = np.bitwise_count(first[:, None] ^ first[None])[np.triu_indices(len(first), 1)]
    assert np.median(apart) > 20


def test_groups_say_how_images_are_alike(tmp_path, photos, looked):
    content = jpeg(photos[0])
    (tmp_path / "a.jpg").write_bytes(content)
    (tmp_path / "b.jpg").write_bytes(content)
    (tmp_path / "c.jpg").write_bytes(content[:2] + b"\xff\xfe\x00\x0bcopied at" + content[2:])
    photos[0].resize((320, 213)).save(tmp_path / "d.png")
    photos[1].save(tmp_path / "e.jpg")
    _, facts, pixels = looked(tmp_path)
    (group,) = find_groups(facts, max_distance=6, pixels_in_full=pixels)
    assert group.rows == [0, 1, 2, 3]
    assert [member.likeness(group.members[0]) for member in group.members[1:]] == ["bytes", "pixels", "near"]
    (exact,) = find_groups(facts, max_distance=None, pixels_in_full=pixels)
    assert exact.rows == [0, 1, 2]


def test_jpegs_that_differ_in_colour_only_are_no_copies(tmp_path, looked):
    for name, colour in (("a.jpg", (255, 0, 0)), ("b.jpg", (0, 129, 2)), ("c.jpg", (255, 0, 0))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name, quality=75 if name != "c.jpg" else 74)
    _, facts, pixels = looked(tmp_path)
    assert facts["pixels"][0] == facts["pixels"][1]
    groups = find_groups(facts, max_distance=4, pixels_in_full=pixels)
    assert [group.rows for group in groups] == [[0, 2]]


def test_bad_images_are_copies_of_nothing(tmp_path, looked):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("the same text")
    _, facts, pixels = looked(tmp_path)
    assert find_groups(facts, max_distance=4, pixels_in_full=pixels) == []


def test_what_sets_have_in_common_is_counted_for_the_later_one(damaged_photos, looked):
    parts = [looked(damaged_photos / part) for part in ("train", "validation")]
    ends = len(parts[0][0])

    def pixels(row):
        return parts[0][2](row) if row < ends else parts[1][2](row - ends)

    _, (overlap,) = copies([facts for _, facts, _ in parts], max_distance=4, pixels_in_full=pixels)
    assert (overlap.of, overlap.within, overlap.count) == (1, 0, 3)
    named = {kind: [parts[1][0].paths[row - ends] for row in rows] for kind, rows in overlap.rows.items()}
    assert named == {
        "bytes": ["flower/same_file.jpg"],
        "pixels": ["flower/comment.jpg"],
        "near": ["temple/smaller.jpg"],
    }


def test_a_hundred_thousand_hashes_take_little_time_and_no_false_pair():
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64))
    assert len(near_pairs(hashes, 3)) == 0


def test_no_images_have_no_copies():
    from dali_pipelines.validation.scan import FACTS

    assert find_groups(FACTS.empty_table(), max_distance=4, pixels_in_full=lambda row: None) == []
