"""``python -m subjectgen.runner`` is the command ``subjectgen``."""

from subjectgen.runner.cli import main

if __name__ == "__main__":
    main()
