"""The InceptionV3 of the published FID: where its file lies, and how it comes there.

    python -m pipeline.models.pretrained.inception         downloads it once, by clean-fid

No package brings it. It is the file inception-2015-12-05.pt that clean-fid downloads: TorchScript,
which PyTorch reads without running Python code from it; its sha256 is compared all the same.
A run of the pipeline never downloads it.
"""

import contextlib
import hashlib
import http.client
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError, run_main

FILE = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
CLEANFID_FOLDER = Path("." if platform.system() == "Windows" else "/tmp")  # where it downloads to
WITHOUT = "set evaluate.fid_network to vgg16"


def find(folder: Path | None) -> Path | None:
    """The file in the user's `folder`, else where clean-fid has put it; nothing is downloaded."""
    places = [place / FILE for place in (folder, CLEANFID_FOLDER) if place is not None]
    return next((path for path in places if path.is_file()), None)


def required(folder: Path | None) -> Path:
    """As `find`; a UserError with the remedy where there is none."""
    path = find(folder)
    if path is None:
        raise UserError(
            f"InceptionV3 (FID): {FILE} is neither in evaluate.weights_dir nor downloaded; "
            "run `python -m pipeline.models.pretrained.inception`, put it into that folder, "
            f"or {WITHOUT}"
        )
    return path


def verify(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(
            f"InceptionV3 (FID): {path} has sha256 {digest}, expected {SHA256}; delete it and "
            f"take the file that clean-fid downloads, or {WITHOUT}"
        )


def download() -> Path:
    """Clean-fid's download, put where clean-fid looks for it once it is complete and verified."""
    from pipeline import runtime

    with cleanfid_needed():
        runtime.repair_torchvision()
        from cleanfid import downloads_helper
    with tempfile.TemporaryDirectory(dir=CLEANFID_FOLDER) as partial:
        try:
            path = Path(downloads_helper.check_download_inception(fpath=partial))
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{FILE} cannot be downloaded from {downloads_helper.inception_url} ({error}); "
                f"put that file into the folder evaluate.weights_dir, or {WITHOUT}"
            ) from error
        verify(path)
        return path.replace(CLEANFID_FOLDER / FILE)


@contextlib.contextmanager
def cleanfid_needed() -> Iterator[None]:
    """The absence of clean-fid in words; around imports."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"evaluate.fid_network = inception needs clean-fid, and {error.name} is not installed; "
            f"run `pip install -r requirements.txt`, or {WITHOUT}"
        ) from error


def main() -> None:
    print(f"{find(None) or download()}; now set evaluate.fid_network to inception")


if __name__ == "__main__":
    run_main(main)
