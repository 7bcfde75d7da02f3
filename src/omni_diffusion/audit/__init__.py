"""Any question of a corpus, in SQL; and pages that show the answers.

Reading order: `views` (what can be asked), `guard` (which SQL runs), `files` and `database` (how
DuckDB gets at a corpus and at nothing else), `contents` (what stands in the tars), `shards`,
`source` (the views of one corpus), `audit` (the session), `answer`, `named` (questions that ship).
"""
