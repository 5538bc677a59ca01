"""`python -m odis`."""

from odis.cli import main

if __name__ == "__main__":
    main()
