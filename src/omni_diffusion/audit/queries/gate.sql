-- title: What a gate on the error rate keeps
-- plot: line x=threshold y=kept_share by=language
-- What a gate on the error rate of speech would keep, at each threshold, by language.
-- Only samples with sound are counted; those whose rate was not measured are counted apart and in
-- no share. A language in which nothing was measured has one line without a threshold.
-- $measure = wer: wer or cer
WITH heard AS (
    SELECT
        language,
        CASE $measure WHEN 'wer' THEN wer WHEN 'cer' THEN cer
            ELSE error('measure must be wer or cer') END AS rate
    FROM samples WHERE speech_len + features_len > 0
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
    FROM heard GROUP BY language
)
SELECT
    language,
    CASE WHEN measured > 0 THEN threshold::DOUBLE END AS threshold,
    kept,
    round(kept / nullif(measured, 0), 6) AS kept_share,
    measured, unmeasured
FROM kept WHERE measured > 0 OR threshold = 0 ORDER BY language, threshold
