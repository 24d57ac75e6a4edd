"""mAP, agreement and the rest, on detections whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette.contract.errors import UserError
from vedette.contract.types import Detections
from vedette_converter import coco
from vedette_converter.agreement import compare

pytest.importorskip("pycocotools", reason="pycocotools is part of the converter's extra")
LABELS = ("person", "???", "dog")


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x_min, y_min, x_max, y_max, score, class id."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int32))


def annotated(folder: Path, pictures: int, **changes: Any) -> Path:
    """``pictures`` of 400x200 pixels, in each a person in the left half and a small dog at the right edge."""
    (folder / "images").mkdir(parents=True)
    document: dict[str, Any] = {
        "images": [{"id": 7 + n, "file_name": f"{n}.png", "width": 400, "height": 200} for n in range(pictures)],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 99, "name": "unicorn"}],
        "annotations": [],
    }
    for n in range(pictures):
        cv2.imwrite(str(folder / "images" / f"{n}.png"), np.full((200, 400, 3), n, np.uint8))
        for category, box in ((1, [0, 0, 200, 200]), (18, [360, 160, 40, 40]), (99, [0, 0, 9, 9])):
            area = box[2] * box[3]
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": 7 + n, "category_id": category, "bbox": box,
                 "area": area, "iscrowd": 0}
            )  # fmt: skip
    document.update(changes)
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


PERSON = (0.0, 0.0, 0.5, 1.0, 0.9, 0)
DOG = (0.9, 0.8, 1.0, 1.0, 0.8, 2)


def test_categories_map_to_labels_by_name_and_folders_add_up(tmp_path: Path) -> None:
    folders = [annotated(tmp_path / "a", 2), annotated(tmp_path / "b", 3)]  # with the same picture ids
    truth = coco.read_annotated(folders, LABELS)
    assert len(truth.pictures) == 5 and truth.data.count == 5 and truth.data.name == "a + b"
    assert truth.class_ids == (0, 2)
    assert [item.class_id for item in truth.pictures[4].objects] == [0, 2]


def test_perfect_detections_have_map_1_and_none_0(tmp_path: Path) -> None:
    truth = coco.read_annotated([annotated(tmp_path / "a", 3)], LABELS)
    assert coco.Evaluated(truth, [detections(PERSON, DOG)] * 3).mean_average_precision() == pytest.approx(1.0)
    assert coco.Evaluated(truth, [detections()] * 3).mean_average_precision() == 0.0


def test_map_is_the_mean_over_categories_and_overlaps(tmp_path: Path) -> None:
    truth = coco.read_annotated([annotated(tmp_path / "a", 2)], LABELS)
    # the person alone, with IoU 0.72: right at 0.50, 0.55, 0.60, 0.65, 0.70 of ten thresholds; no dog
    shifted = (0.0, 0.0, 0.36, 1.0, 0.9, 0)
    figure = coco.Evaluated(truth, [detections(shifted)] * 2).mean_average_precision()
    assert figure == pytest.approx(0.5 * 0.5, abs=1e-6)


def test_a_choice_of_pictures_is_evaluated_as_if_it_were_all(tmp_path: Path) -> None:
    found = [detections(PERSON, DOG), detections(PERSON), detections(DOG), detections((0.5, 0.0, 1.0, 1.0, 0.95, 0))]
    truth = coco.read_annotated([annotated(tmp_path / "a", 4)], LABELS)
    everything = coco.Evaluated(truth, found)
    choice = np.array([3, 0, 0, 2])
    chosen = coco.AnnotatedPictures(tuple(truth.pictures[i] for i in choice), truth.class_ids, truth.data)
    anew = coco.Evaluated(chosen, [found[i] for i in choice]).mean_average_precision()
    assert everything.mean_average_precision(choice) == pytest.approx(anew)
    assert everything.mean_average_precision(choice) != pytest.approx(everything.mean_average_precision())
    assert everything.mean_average_precision(np.arange(4)) == everything.mean_average_precision()


def test_the_bootstrap_is_paired_and_seeded(tmp_path: Path) -> None:
    truth = coco.read_annotated([annotated(tmp_path / "a", 6)], LABELS)
    good = coco.Evaluated(truth, [detections(PERSON, DOG)] * 6)
    mixed = coco.Evaluated(truth, [detections(PERSON, DOG)] * 3 + [detections(PERSON)] * 3)
    assert coco.bootstrap(mixed, mixed, 6, resamples=100, seed=1) == (0.0, 0.0)
    low, high = coco.bootstrap(good, mixed, 6, resamples=100, seed=1)
    assert low < -0.25 < high <= 0.0
    assert (low, high) == coco.bootstrap(good, mixed, 6, resamples=100, seed=1)


def test_the_share_of_large_objects_counts_only_the_large_and_the_sure(tmp_path: Path) -> None:
    truth = coco.read_annotated([annotated(tmp_path / "a", 3)], LABELS)
    unsure = (*PERSON[:4], 0.4, 0)
    found = [detections(PERSON, DOG), detections(unsure), detections((0.5, 0.0, 1.0, 1.0, 0.9, 0))]
    assert coco.share_of_large(truth, found, [0], score=0.5, least_iou=0.5) == (1, 3)
    assert coco.share_of_large(truth, found, [2], score=0.5, least_iou=0.5) == (0, 0)


def box(**changes: Any) -> dict[str, Any]:
    return {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5], **changes}


def image(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "file_name": "0.png", "width": 400, "height": 200, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"categories": [{"id": 1, "name": "unicorn"}]}, "no category has the name of a label"),
        ({"annotations": 3}, "annotations are not in COCO's format: expected a list 'annotations'"),
        ({"annotations": []}, "no annotated object of any label: .* found 1 pictures without one"),
        ({"annotations": [box(iscrowd=1)]}, "no annotated object of any label"),
        ({"annotations": [box(category_id=99)]}, "no annotated object of any label"),
        (
            {"annotations": [box(), {"image_id": 7}]},
            r"annotations\[1\]: .* expected a value for 'category_id', found none",
        ),
        ({"annotations": [box(), box(bbox=[0, 0, -1, 5])]}, r"annotations\[1\]: no box: .* found \[0, 0, -1, 5\]"),
        ({"annotations": [box(bbox=[0, 0, 5])]}, r"annotations\[0\]: no box"),
        ({"annotations": [box(bbox=[0, 0, 5, float("nan")])]}, "no box"),
        ({"annotations": [box(image_id=8)]}, r"annotations\[0\]: image_id is of no entry: found 8"),
        ({"annotations": [box(category_id=4)]}, r"annotations\[0\]: category_id is of no entry: found 4"),
        ({"images": [{"id": 7, "file_name": "0.png", "width": 400}]}, r"images\[0\]: .* expected a value for 'height'"),
        ({"images": 2 * [image()]}, "two images have one id"),
        ({"images": [image(width=200, height=400)]}, "0.png: not the picture that was annotated: .*, found 400 x 200"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        coco.read_annotated([annotated(tmp_path / "a", 1, **changes)], LABELS)


def test_what_is_odd_and_harmless_is_read_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    smaller = image(width=201, height=100)  # boxes of a copy half as large
    entries = [box(bbox=[0, 0, 0, 10], area=None), box(iscrowd=1), box(category_id=99), box(category_id=99)]
    truth = coco.read_annotated([annotated(tmp_path / "a", 1, images=[smaller], annotations=entries)], LABELS)
    assert [(item.area, item.crowd) for item in truth.pictures[0].objects] == [(0.0, False), (25.0, True)]
    assert truth.unlabelled == {"unicorn": 2}


def test_missing_annotations_and_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances\.json: annotations cannot be read"):
        coco.read_annotated([tmp_path], LABELS)
    folder = annotated(tmp_path / "a", 2)
    (folder / "images" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png: picture missing"):
        coco.read_annotated([folder], LABELS)


def test_agreement_counts_each_partner_once() -> None:
    reference = [detections(PERSON, DOG, (0.0, 0.0, 0.5, 0.9, 0.6, 0), (0.0, 0.5, 0.1, 0.6, 0.49, 0))]
    other = [detections((0.0, 0.0, 0.5, 1.0, 0.35, 0), (0.9, 0.8, 1.0, 1.0, 0.6, 2))]
    result = compare(reference, other, confident=0.5, partner_score=0.3, iou=0.5)
    assert (result.confident, result.found, result.found_confident) == (3, 2, 1)
    assert compare(reference, reference, confident=0.5, partner_score=0.3, iou=0.5).share == 1.0
    assert compare([detections()], other, confident=0.5, partner_score=0.3, iou=0.5).share == 1.0


def test_agreement_wants_the_same_label() -> None:
    other = [detections((*PERSON[:5], 2))]
    assert compare([detections(PERSON)], other, confident=0.5, partner_score=0.3, iou=0.5).found == 0
