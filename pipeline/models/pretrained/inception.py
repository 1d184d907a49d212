"""The InceptionV3 of the published FID: where its file lies, and how it comes there.

    python -m pipeline.models.pretrained.inception         downloads it once, by clean-fid

No package brings it. It is the file inception-2015-12-05.pt that clean-fid downloads: TorchScript,
which PyTorch reads without running Python code from it; its sha256 is compared all the same.
A run of the pipeline never downloads it. Without a network put the file into .store/weights.
"""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError, run_main
from pipeline.io import project_root, temporary
from pipeline.models.pretrained.weights import check_sha256

FILE = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INSTEAD = "set evaluate.fid_network to vgg16"


def location() -> Path:
    return project_root() / ".store" / "weights" / FILE


def verified() -> Path:
    """The file's path, after its sha256 was compared; a UserError with the remedy without it."""
    path = location()
    if not path.is_file():
        raise UserError(
            f"InceptionV3 (FID): {path} is missing; "
            f"run `python -m pipeline.models.pretrained.inception`, or {INSTEAD}"
        )
    _verify(path)
    return path


def download() -> Path:
    """Clean-fid's download, put into its place once it is complete and verified."""
    from pipeline import runtime

    with cleanfid_needed():
        runtime.repair_torchvision()
        from cleanfid import downloads_helper
    folder = location().parent
    with temporary(folder, Path.mkdir) as partial:
        try:
            path = Path(downloads_helper.check_download_inception(fpath=str(partial)))
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{FILE} cannot be downloaded from {downloads_helper.inception_url} ({error}); "
                f"put that file into {folder}, or {INSTEAD}"
            ) from error
        _verify(path)
        return path.replace(folder / FILE)


@contextlib.contextmanager
def cleanfid_needed() -> Iterator[None]:
    """The absence of clean-fid in words; around imports."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"evaluate.fid_network = inception needs clean-fid, and {error.name} is not installed; "
            f"run `pip install -r requirements.txt`, or {INSTEAD}"
        ) from error


def _verify(path: Path) -> None:
    remedy = f"delete it and take the file that clean-fid downloads, or {INSTEAD}"
    check_sha256("InceptionV3 (FID)", path, SHA256, remedy)


def main() -> None:
    path = location() if location().is_file() else download()
    print(f"{path}; now set evaluate.fid_network to inception")


if __name__ == "__main__":
    run_main(main)
