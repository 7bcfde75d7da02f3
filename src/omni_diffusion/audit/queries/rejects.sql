-- title: Rejects by reason
-- plot: bars x=reason y=records
-- Why records were refused, with an example of each reason.
SELECT
    stage, reason,
    count(*) AS records,
    round(count(*) / sum(count(*)) OVER (), 6) AS share,
    count(DISTINCT shard) AS shards,
    min(key) AS first_key,
    arg_min(detail, key) AS first_detail
FROM rejects GROUP BY stage, reason ORDER BY records DESC, stage, reason
