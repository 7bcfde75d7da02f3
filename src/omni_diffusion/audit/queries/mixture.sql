-- title: Mixture
-- plot: bars x=name y=supervised_share,configured_share
-- Shares of the corpus by task (or source, or language) against the shares that --weights configures.
-- supervised_share is what training sees if every sample is seen equally often; repeats says how
-- often samples of a part are seen while an average sample is seen once, at the configured shares.
-- $by = task: what divides the corpus: task, source or language
WITH parts AS (
    SELECT
        CASE $by WHEN 'task' THEN task WHEN 'source' THEN source WHEN 'language' THEN language
            ELSE error('by must be task, source or language') END AS name,
        count(*) AS samples,
        sum(tokens)::BIGINT AS tokens,
        sum(supervised_len)::BIGINT AS supervised
    FROM samples GROUP BY ALL
)
SELECT
    coalesce(parts.name, weights.name) AS name,
    coalesce(samples, 0) AS samples,
    coalesce(tokens, 0) AS tokens,
    coalesce(supervised, 0) AS supervised,
    round(coalesce(samples, 0) / sum(samples) OVER (), 6) AS sample_share,
    round(coalesce(tokens, 0) / sum(tokens) OVER (), 6) AS token_share,
    round(coalesce(supervised, 0) / sum(supervised) OVER (), 6) AS supervised_share,
    round(share, 6) AS configured_share,
    round(share / nullif(supervised / sum(supervised) OVER (), 0), 4) AS repeats
FROM parts FULL JOIN weights ON parts.name = weights.name
ORDER BY supervised DESC, name
