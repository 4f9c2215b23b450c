"""`python -m imaginet_build` is `build-imaginet`."""

from imaginet_build.cli import main

if __name__ == "__main__":
    main()
