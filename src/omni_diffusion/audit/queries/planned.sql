-- title: Mixture as planned
-- plot: bars x=part y=planned_share,configured_share
-- What the steps of a training run draw from each corpus, against its configured weight.
-- planned_share is of supervised tokens, as the weights are; first_step and last_step say when a
-- corpus is trained on, passes how often its samples are seen. Needs --run.
WITH parts AS (
    SELECT
        part,
        count(*) AS samples,
        count(DISTINCT key) AS different,
        sum("length")::BIGINT AS ids,
        sum(supervised_len)::BIGINT AS supervised,
        min(step) AS first_step,
        max(step) AS last_step
    FROM batches GROUP BY part
)
SELECT
    coalesce(part, name) AS part,
    coalesce(samples, 0) AS samples,
    round(samples / different, 4) AS passes,
    coalesce(ids, 0) AS ids,
    coalesce(supervised, 0) AS supervised,
    round(coalesce(supervised, 0) / sum(supervised) OVER (), 6) AS planned_share,
    round(share, 6) AS configured_share,
    round(coalesce(supervised, 0) / sum(supervised) OVER () - share, 6) AS difference,
    first_step, last_step
FROM parts FULL JOIN weights ON parts.part = weights.name ORDER BY supervised DESC, part
