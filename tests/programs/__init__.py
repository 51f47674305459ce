"""Programs that the tests start as processes of their own, to interrupt, kill and watch them."""
