"""`python -m weebill.cli`: the same as the `weebill` command."""

from weebill.cli import main

if __name__ == "__main__":
    main()
