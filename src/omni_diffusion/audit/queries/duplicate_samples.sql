-- title: The commonest duplicates
-- plot: table
-- The tokens that stand most often, with the sources and the first keys of their samples.
-- $limit = 50: lines
WITH repeated AS (
    SELECT content_hash, count(*) AS copies FROM samples GROUP BY content_hash HAVING count(*) > 1
    ORDER BY copies DESC, content_hash LIMIT $limit
)
SELECT
    content_hash,
    any_value(copies) AS copies,
    list(DISTINCT source ORDER BY source) AS sources,
    list(key ORDER BY shard, "offset")[:5] AS first_keys
FROM samples JOIN repeated USING (content_hash)
GROUP BY content_hash ORDER BY copies DESC, content_hash
