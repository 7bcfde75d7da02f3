-- title: Lengths of training sequences
-- plot: bars x=name y=p05,median,p95
-- Quantiles of the length of training sequences by task (or source, or language), in ids.
-- The length is what the planner assumes of a sample: exact or a few ids too long, without pads.
-- $by = task: what divides the corpus: task, source or language
WITH counts AS (
    SELECT
        CASE $by WHEN 'task' THEN task WHEN 'source' THEN source WHEN 'language' THEN language
            ELSE error('by must be task, source or language') END AS name,
        sequence_len AS ids,
        count(*) AS n
    FROM samples GROUP BY ALL
), ranked AS (
    SELECT
        name, ids, n,
        sum(n) OVER (PARTITION BY name ORDER BY ids) AS up_to,
        sum(n) OVER (PARTITION BY name) AS total
    FROM counts
)
SELECT
    name,
    sum(n)::BIGINT AS samples,
    round(sum(ids * n) / sum(n), 2) AS mean,
    min(ids) AS shortest,
    min(ids) FILTER (up_to >= 0.05 * total) AS p05,
    min(ids) FILTER (up_to >= 0.25 * total) AS p25,
    min(ids) FILTER (up_to >= 0.50 * total) AS median,
    min(ids) FILTER (up_to >= 0.75 * total) AS p75,
    min(ids) FILTER (up_to >= 0.95 * total) AS p95,
    min(ids) FILTER (up_to >= 0.99 * total) AS p99,
    max(ids) AS longest
FROM ranked GROUP BY name ORDER BY samples DESC, name
