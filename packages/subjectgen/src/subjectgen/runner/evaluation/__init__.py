"""Cases, images on disk, rows of scores, statistics."""
