-- title: Leakage between two corpora
-- plot: table
-- Samples of this corpus that the corpus given with --against holds too: training data in an
-- evaluation set, or the reverse. The same tokens, whatever their keys.
SELECT
    s.source, s.task,
    o.source AS other_source,
    count(DISTINCT s.key) AS samples,
    count(DISTINCT o.key) AS other_samples,
    min(s.key) AS first_key,
    arg_min(o.key, s.key) AS its_other_key
FROM samples AS s JOIN other.samples AS o USING (content_hash)
GROUP BY ALL ORDER BY samples DESC, s.source, s.task, other_source
