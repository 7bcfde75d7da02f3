-- title: Health of shards
-- plot: table
-- Is every shard there, of the size and with the rows that its sidecar and the index say?
-- Shards with a problem come first. This reads names, sizes and footers; `omni-diffusion verify`
-- reads every byte.
WITH indexed AS (
    SELECT
        shard,
        count(*) AS rows,
        sum(512 + (size + 511) // 512 * 512)::BIGINT + 1024 AS bytes,
        max("offset" + size) AS last_end
    FROM samples GROUP BY shard
), rejected AS (
    SELECT shard, count(*) AS rejects FROM rejects GROUP BY shard
), joined AS (
    SELECT
        shards.*, rows, bytes, last_end, coalesce(rejects, 0) AS rejects,
        mode(fingerprints) OVER () AS common_fingerprints,
        count(*) OVER (PARTITION BY digest) AS equals
    FROM shards LEFT JOIN indexed USING (shard) LEFT JOIN rejected USING (shard)
)
SELECT
    shard,
    nullif(concat_ws('; ',
        CASE WHEN tar_bytes IS NULL THEN 'the tar is missing' END,
        CASE WHEN sidecar_bytes IS NULL THEN 'the sidecar is missing' END,
        CASE WHEN fault IS NOT NULL THEN 'the sidecar cannot be read: ' || fault END,
        CASE WHEN rows IS NULL THEN 'the index does not know it' END,
        CASE WHEN tar_bytes <> declared_bytes THEN 'the tar has another size than declared' END,
        CASE WHEN rows <> declared_rows AND NOT subset THEN 'the index has other rows' END,
        CASE WHEN last_end > tar_bytes THEN 'members end after the tar does' END,
        CASE WHEN rows = declared_rows AND bytes <> declared_bytes
            AND NOT contains(fingerprints, '"media":')  -- there a record is several members
            THEN 'members overlap or leave gaps' END,
        CASE WHEN rejects <> declared_rejects AND NOT subset THEN 'the rejects are not complete' END,
        CASE WHEN fingerprints <> common_fingerprints THEN 'made with other tokenizers' END,
        CASE WHEN equals > 1 AND digest IS NOT NULL THEN 'another shard has the same bytes' END
    ), '') AS problem,
    rows, declared_rows, tar_bytes, declared_bytes, rejects
FROM joined ORDER BY problem IS NULL, shard
