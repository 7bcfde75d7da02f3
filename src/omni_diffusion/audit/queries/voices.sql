-- title: Voice × language
-- plot: heatmap x=language y=samples by=voice
-- How much each voice has spoken in each language; 0 is a hole.
WITH spoken AS (
    SELECT voice, language, count(*) AS samples, sum(speech_len) / 12.5 / 3600 AS hours
    FROM samples WHERE voice IS NOT NULL AND language IS NOT NULL GROUP BY ALL
)
SELECT
    voice, language,
    coalesce(samples, 0) AS samples,
    round(coalesce(hours, 0), 3) AS hours
FROM (SELECT DISTINCT voice FROM spoken) CROSS JOIN (SELECT DISTINCT language FROM spoken)
LEFT JOIN spoken USING (voice, language)
ORDER BY voice, language
