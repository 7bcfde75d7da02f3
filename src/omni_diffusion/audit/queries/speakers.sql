-- title: Balance of speakers
-- plot: bars x=voice y=hours
-- How evenly voices are used: samples, hours of speech codes, and times the average voice's hours.
-- $by = engine: engine compares voices of one TTS engine and language, all compares all voices
WITH spoken AS (
    SELECT
        voice, tts_engine, language,
        count(*) AS samples,
        sum(speech_len) / 12.5 / 3600 AS hours,
        avg(words_per_s) AS words_per_s,
        avg(wer) AS wer
    FROM samples WHERE voice IS NOT NULL GROUP BY ALL
), compared AS (
    SELECT *, CASE $by WHEN 'engine' THEN concat_ws(' ', tts_engine, language) WHEN 'all' THEN ''
        ELSE error('by must be engine or all') END AS part
    FROM spoken
)
SELECT
    voice, tts_engine, language, samples,
    round(hours, 3) AS hours,
    round(hours / nullif(avg(hours) OVER (PARTITION BY part), 0), 3) AS times_average,
    round(words_per_s, 2) AS words_per_s,
    round(wer, 4) AS mean_wer
FROM compared ORDER BY hours DESC, voice, language
