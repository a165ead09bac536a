"""Pure functions on tensors. Nothing here knows an id, a file or a device."""
