-- title: Provenance and licences
-- plot: table
-- Where the corpus comes from and under which licences; NULL is a sample that does not say.
SELECT
    source, license, tts_engine,
    count(*) AS samples,
    sum(tokens)::BIGINT AS tokens,
    round(sum(speech_len) / 12.5 / 3600, 3) AS speech_hours,
    count(*) - count(origin) AS without_origin,
    count(DISTINCT shard) AS shards
FROM samples GROUP BY ALL ORDER BY samples DESC, source, license, tts_engine
