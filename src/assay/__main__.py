"""`python -m assay`, the same as the command `assay`."""

from .cli import main

# Worker processes import this module too, under another name.
if __name__ == "__main__":
    main()
