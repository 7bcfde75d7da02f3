-- title: The commonest codes
-- plot: bars x=code y=share by=stream
-- The commonest codes of pictures of each size and of speech. (Reads the tars once.)
-- $top = 20: lines for each stream
SELECT
    stream, code, "count",
    round("count" / sum("count") OVER (PARTITION BY stream), 6) AS share,
    shards
FROM codes
QUALIFY row_number() OVER (PARTITION BY stream ORDER BY "count" DESC, code) <= $top
ORDER BY stream, "count" DESC, code
