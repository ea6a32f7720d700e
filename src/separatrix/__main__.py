"""`python -m separatrix`."""

from separatrix_main import main

if __name__ == "__main__":
    main()
