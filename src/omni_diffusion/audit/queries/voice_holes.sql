-- title: Holes in voice × language
-- plot: table
-- Which voices have spoken too little in which language.
-- Every voice is paired with every language; pairs with fewer samples than $fewer_than are shown.
-- $fewer_than = 1: 1 shows only pairs that do not occur at all
WITH spoken AS (
    SELECT voice, language, count(*) AS samples, sum(speech_len) / 12.5 / 3600 AS hours
    FROM samples WHERE voice IS NOT NULL GROUP BY ALL
), pairs AS (
    SELECT * FROM (SELECT DISTINCT voice FROM spoken)
    CROSS JOIN (SELECT DISTINCT language FROM spoken WHERE language IS NOT NULL)
)
SELECT
    voice, language,
    coalesce(samples, 0) AS samples,
    round(coalesce(hours, 0), 3) AS hours
FROM pairs LEFT JOIN spoken USING (voice, language)
WHERE coalesce(samples, 0) < $fewer_than
ORDER BY language, voice
