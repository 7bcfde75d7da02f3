-- title: Filling of rows by length
-- plot: bars x=from_ids y=fill_alone,fill_with_equals
-- How well rows of a fixed length are filled, by the length of samples.
-- fill_alone: one sample a row. fill_with_equals: as many samples of the same length as fit, which
-- a planner that mixes lengths betters. The last line is of all samples together; too_long counts
-- samples that fit into no row.
-- $row = 3072: ids of a row
-- $bin = 256: ids of a bin of lengths
WITH counts AS (
    SELECT sequence_len AS ids, count(*) AS n FROM samples GROUP BY ALL
), fitted AS (
    SELECT
        ids // $bin * $bin AS from_ids, ids, n,
        ids <= $row AS fits,
        CASE WHEN ids <= $row THEN n / ($row // greatest(ids, 1)) END AS rows_needed
    FROM counts
)
SELECT
    from_ids,
    from_ids + $bin - 1 AS to_ids,
    sum(n)::BIGINT AS samples,
    (coalesce(sum(n) FILTER (NOT fits), 0))::BIGINT AS too_long,
    round(sum(n) / (SELECT sum(n) FROM counts), 6) AS sample_share,
    round(sum(n * ids) / (SELECT sum(n * ids) FROM counts), 6) AS id_share,
    round(sum(n * ids) FILTER (fits) / (sum(n) FILTER (fits) * $row), 4) AS fill_alone,
    round(sum(n * ids) FILTER (fits) / (sum(rows_needed) * $row), 4) AS fill_with_equals
FROM fitted GROUP BY GROUPING SETS ((from_ids), ()) ORDER BY from_ids NULLS LAST
