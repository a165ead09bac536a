"""The nouns that travel between the steps, and nothing else: no files, no loaders, no device."""
