-- title: Codes by rank
-- plot: line x=rank y=share by=codebook log
-- How often the commonest code occurs, the second, the fourth, ... (Reads the tars once.)
-- A straight line is the usual law of frequencies; a cliff is a tokenizer that has collapsed.
WITH counts AS (
    SELECT CASE WHEN stream = 'speech' THEN 'speech' ELSE 'image' END AS codebook,
        code, sum("count")::BIGINT AS n
    FROM codes GROUP BY ALL
), ranked AS (
    SELECT codebook, n, n / sum(n) OVER (PARTITION BY codebook) AS share,
        row_number() OVER (PARTITION BY codebook ORDER BY n DESC, code) AS rank
    FROM counts
)
SELECT codebook, rank, n AS "count", share
FROM ranked WHERE rank = 2 ** floor(log2(rank)) ORDER BY codebook, rank
