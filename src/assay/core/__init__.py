"""The data classes that the stages of assay pass to each other; nothing here opens files, loads data or chooses a device."""
