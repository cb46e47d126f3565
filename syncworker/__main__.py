"""`python -m syncworker` and the `syncworker` command."""

from syncworker.cli.main import main

if __name__ == "__main__":
    main()
