-- title: Code book usage
-- plot: bars x=codebook y=used,dead
-- How the code books are used: codes that never occur, entropy, and how much the commonest hold.
-- perplexity is the number of codes that, used evenly, would have the same entropy. A tokenizer
-- that has collapsed shows few used codes and a large top_share. (Reads the tars once.)
-- $image_codes = 8192: size of the pictures' code book
-- $speech_codes = 16384: size of the speech code book
WITH counts AS (
    SELECT
        CASE WHEN stream = 'speech' THEN 'speech' ELSE 'image' END AS codebook,
        code, sum("count")::BIGINT AS n
    FROM codes GROUP BY ALL
), shares AS (
    SELECT
        *, n / sum(n) OVER (PARTITION BY codebook) AS share,
        row_number() OVER (PARTITION BY codebook ORDER BY n DESC, code) AS place,
        CASE codebook WHEN 'speech' THEN $speech_codes ELSE $image_codes END AS size
    FROM counts
)
SELECT
    codebook,
    any_value(size) AS size,
    sum(n)::BIGINT AS codes,
    count(*) FILTER (code < size) AS used,
    any_value(size) - count(*) FILTER (code < size) AS dead,
    count(*) FILTER (code >= size) AS outside,
    round(-sum(share * log2(share)), 4) AS entropy_bits,
    round(log2(any_value(size)), 4) AS most_bits,
    round(pow(2, -sum(share * log2(share))), 1) AS perplexity,
    round(max(share), 6) AS top_share,
    round(sum(share) FILTER (place <= 100), 6) AS top_100_share
FROM shares GROUP BY codebook ORDER BY codebook
