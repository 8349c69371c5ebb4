"""What `attune data`'s child answers, on photos of which several are damaged and several are copies."""

import csv
import json

import pytest
import yaml
from PIL import Image

from trainer.data_sources import list_source
from trainer.data_tools import inspection, moving, validation
from trainer.data_tools.request import Convert, Inspect, Split, Stage, Validate
from trainer.errors import UnusableSpecError
from trainer.named_sources import source_from_text
from trainer.resolve import resolve

BAD = ["flower/10.jpg", "temple/10.jpg", "temple/11.jpg", "temple/crc.png", "temple/gone.jpg"]


@pytest.fixture
def parts(damaged_photos):
    return tuple(f"{part}={damaged_photos / part}" for part in ("train", "validation"))


@pytest.fixture
def captions(tmp_path, damaged_photos):
    """A table with captions: a long one, and one twice."""
    texts = ["a flower", "a flower", "petal " * 100, "a temple"]
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption"))
        writer.writerows((f"photos/train/flower/0{number}.jpg", text) for number, text in enumerate(texts))
    return str(tmp_path / "captions.csv")


def test_validation_names_every_image_that_cannot_be_used(parts, tmp_path):
    answer = validation.validate(Validate(sources=parts, quarantine=str(tmp_path / "bad.txt")))
    assert answer.failed
    train = answer.document["data_sets"]["train"]
    assert [bad["key"] for bad in train["bad"]] == BAD
    assert all(bad["reason"] for bad in train["bad"])
    assert {odd["key"]: odd["remark"].split(":")[0] for odd in train["odd"]} == {
        "flower/11.jpg": "damaged, though it decodes",
        "temple/png.jpg": "a PNG file called .jpg",
    }
    assert (tmp_path / "bad.txt").read_text().split() == BAD
    assert train["class_counts"] == {"flower": 11, "temple": 12}
    assert answer.document["data_sets"]["validation"]["bad"] == []


def test_validation_finds_leaks_and_conflicts(parts):
    tables = validation.validate(Validate(sources=parts)).document["tables"]
    assert tables["leakage"] == [
        {
            "images of": "validation",
            "are also in": "train",
            "images": 3,
            "same bytes": 1,
            "same pixels": 1,
            "nearly the same": 1,
        }
    ]
    assert [row["image"] for row in tables["label-conflicts"]] == ["flower/02.jpg", "temple/mistaken.jpg"]
    exact = validation.validate(Validate(sources=parts, near=None)).document["tables"]
    assert exact["leakage"][0]["nearly the same"] == 0
    against = validation.validate(Validate(sources=parts[1:], against=parts[:1])).document["tables"]
    assert against["leakage"] == tables["leakage"]


def test_strict_counts_damaged_images_as_bad(parts):
    document = validation.validate(Validate(sources=parts, strict=True)).document
    assert "flower/11.jpg" in [bad["key"] for bad in document["data_sets"]["train"]["bad"]]


def test_good_data_do_not_fail(damaged_photos):
    source = f"{{path: {damaged_photos}/train, limit_per_class: 10, classes: [flower]}}"
    answer = validation.validate(Validate(sources=(source,), few=0))
    assert not answer.failed
    assert answer.document["findings"] == [
        "0 of 10 images cannot be used.",
        "Exact copies of other images: 0.",
    ]


def test_the_report_has_tables_and_a_contact_sheet(parts, tmp_path):
    answer = validation.validate(Validate(sources=parts, output=str(tmp_path / "report")))
    text = (tmp_path / "report/report.md").read_text()
    assert all(name in text for name in BAD)
    assert "3 images of validation are also in train (1 the same file, 1 the same pixels, 1 nearly the same)." in text
    assert json.loads((tmp_path / "report/report.json").read_text()) == json.loads(json.dumps(answer.document))
    with (tmp_path / "report/bad-images.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == BAD
    with Image.open(tmp_path / "report/contact-sheet.png") as sheet:
        assert sheet.width == 1400
        assert 1200 < sheet.height < 4000
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}
    assert {(0xC0, 0x39, 0x2B), (0xD9, 0x79, 0x2B)} <= colours  # frames of bad and of odd images
    assert (tmp_path / "report/journal/train/0/000000.arrow").is_file()


def test_captions_are_counted_in_tokens(captions):
    document = validation.validate(Validate(sources=(captions,))).document
    facts = document["data_sets"]["captions"]["captions"]
    assert (facts["num_captions"], facts["num_without"], facts["num_repeated"]) == (4, 0, 2)
    assert (facts["num_too_long"], facts["max_tokens"], facts["context_length"]) == (1, 102, 77)
    assert facts["median_tokens"] == 4
    assert facts["most_repeated"] == {"a flower": 2}
    assert any("1 of 4 captions of captions are longer" in finding for finding in document["findings"])


def test_a_model_brings_its_context(captions):
    document = validation.validate(Validate(sources=(captions,), model="attune-tiny-32")).document
    assert document["data_sets"]["captions"]["captions"]["context_length"] == 16
    with pytest.raises(UnusableSpecError, match="tokens cannot be counted"):
        validation.validate(Validate(sources=(captions,), model="no-such-model"))


def test_a_jobs_data_are_meant_by_its_spec(damaged_photos):
    data = {
        "train": str(damaged_photos / "train"),
        "validation": str(damaged_photos / "validation"),
        "evaluate": {"again": str(damaged_photos / "validation")},
    }
    job = resolve(spec={"model": "attune-tiny-32", "data": data, "objective": {"name": "class_prompts"}})
    assert list(Inspect(spec=job).data_sets()) == ["train", "validation", "again"]
    answer = inspection.inspect(Inspect(spec=job))
    told = yaml.safe_load(answer.lines[-1])
    assert set(told["data"]) == {"train", "validation", "evaluate"}
    with pytest.raises(UnusableSpecError, match="not both"):
        Inspect(spec=job, sources=("x",)).data_sets()
    with pytest.raises(UnusableSpecError, match="name data"):
        Inspect().data_sets()


def test_inspection_opens_no_image_but_a_few(damaged_photos):
    answer = inspection.inspect(Inspect(sources=(str(damaged_photos / "train"),), num_samples=3))
    document = answer.document["data_sets"]["train"]
    assert document["class_counts"] == {"flower": 12, "temple": 16}
    assert len(answer.document["tables"]["samples"]) == 3
    assert answer.document["tables"]["samples"][0]["size"] == "120 x 100"
    told = yaml.safe_load(answer.lines[-1])["data"]["train"]
    assert len(list_source(source_from_text(yaml.safe_dump(told, default_flow_style=True), option="x"))) == 28


def test_a_split_shares_no_image_and_no_copy(damaged_photos, tmp_path):
    source = str(damaged_photos / "validation")
    for name in ("00", "01"):  # copies that a split by chance would tear apart
        content = (damaged_photos / f"validation/flower/{name}.jpg").read_bytes()
        for number in range(6):
            (damaged_photos / f"validation/flower/{name}-{number}.jpg").write_bytes(content)
    before = {path: path.read_bytes() for path in damaged_photos.rglob("*.jpg") if path.is_file()}
    request = Split(sources=(source,), output=str(tmp_path / "split"), validation=0.4, group_duplicates=True)
    answer = moving.split(request)
    told = yaml.safe_load(answer.lines[-1])["data"]
    rows = {
        part: list_source(source_from_text(yaml.safe_dump(told[part], default_flow_style=True, width=9999), option="x"))
        for part in ("train", "validation")
    }
    paths = {part: set(samples.paths) for part, samples in rows.items()}
    assert not paths["train"] & paths["validation"]
    assert len(paths["train"] | paths["validation"]) == 23
    assert set(rows["train"].class_names) == {"flower", "temple"}
    for name in ("00", "01"):
        copies = {f"flower/{name}.jpg", *(f"flower/{name}-{number}.jpg" for number in range(6))}
        assert any(copies <= own for own in paths.values())
    assert {path: path.read_bytes() for path in before} == before
    leaks = validation.validate(
        Validate(sources=tuple(f"{part}={json.dumps(told[part])}" for part in ("train", "validation")))
    )
    assert "leakage" not in leaks.document["tables"]


def test_a_split_without_parts_is_refused(damaged_photos, tmp_path):
    request = Split(sources=(str(damaged_photos / "validation"),), output=str(tmp_path / "x"), validation=0.0)
    with pytest.raises(UnusableSpecError, match="divide nothing"):
        moving.split(request)
    with pytest.raises(UnusableSpecError, match="no domains"):
        moving.split(request.model_copy(update={"validation": 0.2, "by": "domain"}))


def test_converted_data_are_the_same_data(damaged_photos, tmp_path):
    good = f"{{path: {damaged_photos}/validation}}"
    for to in ("csv", "image_folder"):
        answer = moving.convert(Convert(sources=(good,), to=to, output=str(tmp_path / to)))
        told = yaml.safe_load(answer.lines[-1])["data"]["train"]
        samples = list_source(source_from_text(json.dumps(told), option="x"))
        assert samples.class_counts() == {"flower": 6, "temple": 5}


def test_staged_data_are_shards_with_the_same_images(damaged_photos, tmp_path):
    answer = moving.stage(Stage(sources=(str(damaged_photos / "validation"),), output=str(tmp_path / "near")))
    assert answer.document["tables"]["staged"][0]["images"] == 11
    assert yaml.safe_load(answer.lines[-1])["data"]["train"]["format"] == "webdataset"
    assert list((tmp_path / "near").rglob("*.tar"))
