-- title: Lengths, counted
-- plot: line x=from_ids y=samples by=name
-- How many samples are how long, by task (or source, or language), in bins of ids.
-- $by = task: what divides the corpus: task, source or language
-- $bin = 128: ids of a bin
SELECT
    CASE $by WHEN 'task' THEN task WHEN 'source' THEN source WHEN 'language' THEN language
        ELSE error('by must be task, source or language') END AS name,
    sequence_len // $bin * $bin AS from_ids,
    count(*) AS samples
FROM samples GROUP BY ALL ORDER BY name, from_ids
