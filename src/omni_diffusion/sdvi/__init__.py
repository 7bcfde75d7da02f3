"""Synthesis of spoken data: from written questions, answers and captions to checked speech.

Reading order: `rules` (which texts, and how they are said), `tasks` (records to utterances and
back), `voices`, `engines` (text to sound), `speech_cache`, `gates` and `recognisers` (which sounds
are good enough), `produce` (all of it, a batch at a time). Ray is not known here.
"""
