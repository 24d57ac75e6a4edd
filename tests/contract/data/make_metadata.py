"""Makes ``tiny-metadata.tflite``: the tiny float classifier with TFLite metadata, written by TFLite Support's own writer.

Run once by hand, in an environment of its own (its packages are too old for ours)::

    pip install tflite-support==0.4.4 'numpy<2'     # Python 3.11 or older
    python tests/contract/data/make_metadata.py
"""

from pathlib import Path

from tflite_support.metadata_writers import image_classifier, writer_utils

HERE = Path(__file__).parent
LABELS = HERE / "tiny-labels.txt"


def main() -> None:
    """Writes the file beside this one."""
    writer = image_classifier.MetadataWriter.create_for_inference(
        writer_utils.load_file(str(HERE / "tiny-float32.tflite")), [127.5], [63.75], [str(LABELS)]
    )
    writer_utils.save_file(writer.populate(), str(HERE / "tiny-metadata.tflite"))


if __name__ == "__main__":
    main()
