# A distribution of its own, with tests of its own: test_third_party.py installs it and runs them.
collect_ignore = ["third_party_example"]
