-- title: Filling of rows as planned
-- plot: line x=step y=fill
-- How full the rows of each training step are, tail pads counted. Needs --run.
SELECT
    step,
    count(*) AS samples,
    any_value("rows") AS "rows",
    sum("length" + tail_pads)::BIGINT AS ids,
    round(sum("length" + tail_pads) / (any_value("rows") * any_value(row_length)), 4) AS fill
FROM batches GROUP BY step ORDER BY step
