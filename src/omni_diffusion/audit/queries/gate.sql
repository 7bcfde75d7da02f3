-- title: What a gate on the error rate keeps
-- plot: line x=threshold y=kept_share by=language
-- What a gate on the error rate of synthetic speech would keep, at each threshold, by language.
-- Samples whose rate was not measured are counted apart and in no share.
-- $measure = wer: wer or cer
WITH measured AS (
    SELECT
        language,
        CASE $measure WHEN 'wer' THEN wer WHEN 'cer' THEN cer
            ELSE error('measure must be wer or cer') END AS rate
    FROM samples
), kept AS (
    SELECT
        language,
        count(rate) AS measured,
        count(*) - count(rate) AS unmeasured,
        unnest([0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]) AS threshold,
        unnest([
            count(*) FILTER (rate <= 0.00::FLOAT), count(*) FILTER (rate <= 0.01::FLOAT),
            count(*) FILTER (rate <= 0.02::FLOAT), count(*) FILTER (rate <= 0.03::FLOAT),
            count(*) FILTER (rate <= 0.05::FLOAT), count(*) FILTER (rate <= 0.10::FLOAT),
            count(*) FILTER (rate <= 0.15::FLOAT), count(*) FILTER (rate <= 0.20::FLOAT),
            count(*) FILTER (rate <= 0.30::FLOAT), count(*) FILTER (rate <= 0.50::FLOAT)
        ]) AS kept
    FROM measured GROUP BY language
)
SELECT
    language, threshold::DOUBLE AS threshold, kept,
    round(kept / measured, 6) AS kept_share,
    measured, unmeasured
FROM kept WHERE measured > 0 ORDER BY language, threshold
