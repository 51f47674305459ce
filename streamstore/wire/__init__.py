"""The HTTP protocol in front of a store."""
