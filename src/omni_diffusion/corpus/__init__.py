"""The ground floor: what a sample is, and how shards of them are written, checked and read.

Reading order: `record` (one conversation), `sample` (its tokens, byte by byte), `tar`, `shard`,
`sidecar`, `index`, `corpus` (the whole folder), `stream` (batches of it), `subset` (a
part of it, without a copy), `verify`.
Neither torch nor ray is imported here.
"""
