"""The Kinesis Client Library of Java, as it is, on a store: ``python -m tools.kcl``."""
