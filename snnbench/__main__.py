"""`python -m snnbench` is the same as `snnbench`."""

from snnbench.cli import main

if __name__ == "__main__":
    main()
