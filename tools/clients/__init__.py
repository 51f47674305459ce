"""Clients of Kinesis as their users have them, against `streamstore serve`: one scenario, and all must see the same."""
