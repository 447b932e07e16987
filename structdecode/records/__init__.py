"""What a comparison keeps on disk: records, and the directory they are in."""
