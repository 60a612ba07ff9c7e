"""Work cut into shards that many processes do: a ledger of finished ones, a pool, executors.

Generic: nothing here knows what a shard holds, which stage makes it, or any setting.
"""
