"""What the people who build the project run: the checks, the quick start, and the torture."""
