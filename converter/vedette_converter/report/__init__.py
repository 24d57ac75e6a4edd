"""What a build found out: as one page to look at, as Markdown, and as one object for programs.

::

    extras = gather(file, pair, base, product, samples=samples, pictures=pictures, plan=plan)
    write_report(Path("build.html"), measured, extras)
"""

from .extras import PICTURES, Extras, describe, gather
from .page import page
from .samples import SamplePicture, sample_pictures
from .table import as_object, blame, markdown, written
from .write import expect_report, write_report

__all__ = [
    "PICTURES",
    "Extras",
    "SamplePicture",
    "as_object",
    "blame",
    "describe",
    "expect_report",
    "gather",
    "markdown",
    "page",
    "sample_pictures",
    "write_report",
    "written",
]
