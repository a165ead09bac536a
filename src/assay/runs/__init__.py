"""What is on disk: recording a run, reading it back, and the artefacts made from it."""
