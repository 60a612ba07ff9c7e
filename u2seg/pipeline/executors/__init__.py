"""Where worker processes come from. The ledger is the queue: an executor only starts loops."""
