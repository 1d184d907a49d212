"""Networks and optical flow: no files but in `checkpoints`."""
