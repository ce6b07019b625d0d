"""``python -m sslkit``."""

from sslkit.cli.commands import main

if __name__ == "__main__":
    main()
