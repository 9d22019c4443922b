"""``python -m subjectgen.runner`` is the command ``subjectgen``."""

from subjectgen.runner.cli.main import main

if __name__ == "__main__":
    main()
