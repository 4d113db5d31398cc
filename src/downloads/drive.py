"""Download the folders that the TALL masks authors keep on Google Drive, with gdown, which only this module needs."""

import importlib
import inspect
from pathlib import Path

from src.errors import UserError
from src.runtime.files import NO_SPACE

FOLDERS = {
    ("checkpoints", "ViT-B-32"): "16xmoeMqNf1JlICqjMUEgHiH6mHn0G1f0",
    ("checkpoints", "ViT-B-16"): "1dmLqIwCYPqO0qsNEuflPhC5-_QodQHDv",
    ("checkpoints", "ViT-L-14"): "1QFBcz79RqXUAkEVlYOItt6VJIcf1Ppq6",
    ("tall_masks", "ViT-B-32"): "1jpqsurrAdD5bn9i7pRBsTq4E3ayPb0YK",
    ("tall_masks", "ViT-B-16"): "1jYNsdeFz6vlwIl5s4T48zeTm7FdwTSL9",
    ("tall_masks", "ViT-L-14"): "16GVDMhpScmM3zeyfubjmNRFLiFKkBE7p",
}
RETRIES = 3
TIMEOUT = {"timeout": (30, 60)}  # seconds to connect, and between bytes; gdown itself waits for ever


def fetch_folder(identity: str, folder: Path) -> None:
    """Download the files of a folder on Google Drive into `folder`; complete ones are skipped, an interrupted one goes on.

    Drive gives no digests: the caller checks what has come.

    Raise UserError with the way by hand if Drive refuses.
    """
    by_hand = f"https://drive.google.com/drive/folders/{identity} in a browser, and put what is in it into {folder}"
    try:
        gdown = importlib.import_module("gdown")
    except ImportError as error:
        raise UserError(
            f"--source=drive needs gdown: pip install 'gdown>=6.5'; or leave --source out for Hugging Face; or open {by_hand}"
        ) from error
    try:
        timeout = TIMEOUT if "timeout" in inspect.signature(gdown.download_folder).parameters else {}
        gdown.download_folder(id=identity, output=str(folder), resume=True, retries=RETRIES, **timeout)
    except Exception as error:  # requests' errors, gdown's, and those of parsing a page that Drive changed
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise UserError(f"no space left in {folder}; free some and run this again: it goes on where it stopped") from error
        refused = type(error).__module__.split(".")[0] != "requests"
        what = "did not give all files" if refused else "cannot be reached"
        limits = "it limits how often a file may be downloaded in a day, so " if refused else ""
        message = " ".join(str(error).split())[:160]
        raise UserError(
            f"Google Drive {what} ({type(error).__name__}: {message}): {limits}run this again later, and it goes on where it "
            f"stopped; or open {by_hand}"
        ) from error
