-- title: Duplicates inside and across sources
-- plot: bars x=source y=extra_copies,shared
-- Samples whose tokens stand twice, inside a source and across sources.
-- extra_copies: samples that repeat another one of the same source. shared: samples whose tokens
-- stand in another source too.
WITH repeated AS (
    SELECT content_hash FROM samples GROUP BY content_hash HAVING count(*) > 1
), copies AS (
    SELECT content_hash, source, count(*) AS n
    FROM samples SEMI JOIN repeated USING (content_hash) GROUP BY ALL
), spread AS (
    SELECT source, n, count(*) OVER (PARTITION BY content_hash) AS sources FROM copies
), found AS (
    SELECT source, sum(n - 1) AS extra_copies, sum(n) FILTER (sources > 1) AS shared
    FROM spread GROUP BY source
)
SELECT
    s.source,
    s.samples,
    coalesce(found.extra_copies, 0)::BIGINT AS extra_copies,
    coalesce(found.shared, 0)::BIGINT AS shared,
    round(coalesce(found.extra_copies, 0) / s.samples, 6) AS extra_share
FROM (SELECT source, count(*) AS samples FROM samples GROUP BY source) AS s
LEFT JOIN found ON s.source IS NOT DISTINCT FROM found.source
ORDER BY extra_copies DESC, shared DESC, s.source
